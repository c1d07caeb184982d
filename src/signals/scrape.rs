//! scrape (skeleton).
