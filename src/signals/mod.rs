//! Where the judge gets its observations.
