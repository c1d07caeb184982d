-- Health of wade.dev Rollout and Release for Argo CD, so that sync waves wait for the release.
-- Goes into argocd-cm, the same text under both keys (docs/install.md shows it):
--   resource.customizations.health.wade.dev_Rollout
--   resource.customizations.health.wade.dev_Release
-- Argo CD runs Lua 5.1 without libraries that reach outside.

local function health(status, message)
  return {status = status, message = message or ""}
end

local status = obj.status
if status == nil then
  return health("Progressing", "the daemon has not seen it yet")
end

local function condition(name)
  for _, one in ipairs(status.conditions or {}) do
    if one.type == name then
      return one
    end
  end
  return nil
end

local function is(name, truth)
  local found = condition(name)
  return found ~= nil and found.status == truth
end

-- What is said about an older spec says nothing about this one.
if status.observedGeneration ~= nil and obj.metadata.generation ~= nil
  and status.observedGeneration < obj.metadata.generation then
  return health("Progressing", "the daemon has not seen the last change yet")
end

local wrong = {Invalid = true, Refused = true, Missing = true, refused = true}
if is("Valid", "False") or is("Stuck", "True") or wrong[status.phase] then
  return health("Degraded", status.message)
end

-- A person has to say yes: nothing will happen by itself.
if status.phase == "gated" then
  return health("Suspended", status.message)
end

local good = {Promoted = true, FirstDeploy = true}
-- A newer revision took its place: that one's health is what counts.
local replaced = {Superseded = true}

if obj.kind == "Release" then
  if status.outcome == nil and status.phase ~= "unchanged" then
    return health("Progressing", status.message)
  end
elseif is("Releasing", "True") or status.phase == "Waiting" then
  return health("Progressing", status.message)
end

if status.outcome == nil or good[status.outcome] or replaced[status.outcome] then
  return health("Healthy", status.message)
end
return health("Degraded", status.message or status.outcome)
