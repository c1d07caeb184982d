//! The description of the API for programs, OpenAPI 3.1: made from the routes and from the types, so that it cannot say
//! anything else than what is answered.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::answers::{Evidence, Gone, Outline, Placed, Timeline};
use super::routes::{Access, Act, ROUTES, Route, Sent, VERBS};
use crate::controller::Notice;
use crate::daemon::api::{Acknowledged, CommandRequest, Problem, ReleaseRequest, ReleaseSummary, RolloutView, Started};
use crate::store::ReleaseRecord;

/// The document as text.
pub fn text() -> String {
    static TEXT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", document()));
    TEXT.clone()
}

/// The document.
pub fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut generator = settings.into_generator();
    let mut paths: BTreeMap<&str, Value> = BTreeMap::new();
    for route in &ROUTES {
        let item = paths.entry(route.path).or_insert_with(|| json!({}));
        item[route.method.as_str().to_ascii_lowercase()] = operation(route, &mut generator);
    }
    // What streams tell of has no place in an answer of its own.
    let events = json!({
        "rollout": generator.subschema_for::<Outline>(), "gone": generator.subschema_for::<Gone>(),
        "problem": generator.subschema_for::<Problem>(), "entry": generator.subschema_for::<Notice>(),
    });
    let schemas = Value::Object(generator.take_definitions(true));
    let verbs: Vec<String> = VERBS.iter().map(|(verb, what)| format!("`{verb}` {what}")).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Wade",
            "version": env!("CARGO_PKG_VERSION"),
            "description": format!(
                "Rollouts and releases. Rights are those of the cluster (SubjectAccessReview) on rollouts.wade.dev and releases.wade.dev, with verbs of Wade's own: {}.",
                verbs.join("; ")
            ),
        },
        "paths": paths,
        "x-events": events,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "A token of the cluster."}},
        },
    })
}

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let mut parameters: Vec<Value> = Vec::new();
    for (name, schema, what) in [
        (
            "namespace",
            json!({"type": "string", "maxLength": 63}),
            "The namespace.",
        ),
        (
            "rollout",
            json!({"type": "string", "maxLength": 253}),
            "The rollout's name.",
        ),
        (
            "number",
            json!({"type": "integer", "minimum": 1}),
            "The release's number.",
        ),
    ] {
        if route.path.contains(&format!("{{{name}}}")) {
            parameters.push(json!({
                "name": name, "in": "path", "required": true, "schema": schema, "description": what,
            }));
        }
    }
    if route.act == Act::Events {
        parameters.push(json!({
            "name": "from", "in": "query", "schema": {"type": "integer", "minimum": 1},
            "description": "The first entry to tell; 1 if not said.",
        }));
    }
    if matches!(route.act, Act::Events | Act::FleetEvents) {
        parameters.push(json!({
            "name": "Last-Event-ID", "in": "header", "schema": {"type": "string"},
            "description": "The id of the event that was seen last; the stream goes on after it.",
        }));
    }
    let mut operation = json!({
        "operationId": id(route),
        "summary": route.summary,
        "parameters": parameters,
        "responses": responses(route, generator),
        "x-permission": route.access.words(),
    });
    if route.access != Access::Open {
        operation["security"] = json!([{"token": []}]);
    }
    let body = match route.sent {
        Sent::Nothing => return operation,
        Sent::Release => generator.subschema_for::<ReleaseRequest>(),
        Sent::Command => generator.subschema_for::<CommandRequest>(),
    };
    operation["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": body}}});
    operation
}

/// `Releases` becomes `releases`.
fn id(route: &Route) -> String {
    let name = format!("{:?}", route.act);
    let (first, rest) = name.split_at(1);
    format!("{}{rest}", first.to_ascii_lowercase())
}

fn responses(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let (status, what, content) = match route.act {
        Act::Fleet => ("200", "The rollouts.", of(&generator.subschema_for::<Vec<Placed>>())),
        Act::Rollouts => (
            "200",
            "The rollouts.",
            of(&generator.subschema_for::<Vec<RolloutView>>()),
        ),
        Act::Rollout => ("200", "The rollout.", of(&generator.subschema_for::<RolloutView>())),
        Act::Releases => (
            "200",
            "The releases.",
            of(&generator.subschema_for::<Vec<ReleaseSummary>>()),
        ),
        Act::Release => (
            "201",
            "It has begun, or nothing is to be done.",
            of(&generator.subschema_for::<Started>()),
        ),
        Act::Record => ("200", "The record.", of(&generator.subschema_for::<ReleaseRecord>())),
        Act::Timeline => ("200", "The timeline.", of(&generator.subschema_for::<Timeline>())),
        Act::Evidence => ("200", "The evidence.", of(&generator.subschema_for::<Evidence>())),
        Act::Command => ("200", "It is recorded.", of(&generator.subschema_for::<Acknowledged>())),
        Act::Plan | Act::Health => ("200", "Text.", json!({"text/plain": {"schema": {"type": "string"}}})),
        Act::Events => (
            "200",
            "One Notice a line; with `Accept: text/event-stream`, events `entry` (its id is the entry's number), `look`, `problem` and `end`.",
            json!({
                "application/x-ndjson": {"schema": generator.subschema_for::<Notice>()},
                "text/event-stream": {"schema": {"type": "string"}},
            }),
        ),
        Act::FleetEvents => (
            "200",
            "Events `rollout` (an Outline), `gone` (a Gone), `reset` (everything is told anew) and `problem`.",
            json!({"text/event-stream": {"schema": {"type": "string"}}}),
        ),
        Act::OpenApi => (
            "200",
            "This.",
            json!({"application/json": {"schema": {"type": "object"}}}),
        ),
    };
    let mut all = json!({status: {"description": what, "content": content}});
    if route.access != Access::Open {
        let problem = of(&generator.subschema_for::<Problem>());
        all["default"] = json!({"description": "Why not.", "content": problem});
    }
    all
}

fn of(schema: &schemars::Schema) -> Value {
    json!({"application/json": {"schema": schema}})
}
