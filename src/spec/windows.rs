//! stub
impl super::Windows {
    /// x
    pub fn verdict(&self, _now: jiff::Timestamp) -> WindowVerdict {
        WindowVerdict::Open
    }
}
/// x
pub enum WindowVerdict {
    /// x
    Open,
    /// x
    Closed {
        /// x
        why: String,
        /// x
        opens: Option<jiff::Timestamp>,
    },
}
