//! stub
use serde_json::Value;
pub struct Owner {
    pub manager: String,
    pub tool: String,
    pub snippet: String,
}
pub fn last_writer(_: &Value, _: &[&str]) -> Option<String> {
    None
}
pub fn gitops_owner(_: &Value, _: &[&str]) -> Option<Owner> {
    None
}
