mod fuzz;
mod kit;
mod refusals;
mod streams;
mod words;
