//! exposition (skeleton).
