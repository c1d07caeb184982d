//! stub
use serde_json::Value;
pub struct Room;
impl Room {
    pub fn shortage(&self) -> Option<String> {
        None
    }
}
pub fn quota_room(_: &[Value], _: &Value, _: u32) -> Result<(), String> {
    Ok(())
}
pub fn node_room(_: &[Value], _: &[Value], _: &Value, _: u32) -> Room {
    Room
}
