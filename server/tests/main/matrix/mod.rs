//! Every address of the table as everybody: who may, who may not, and that nobody reaches another account's rows.

mod answers;
mod elsewhere;
mod foreign;
mod hostile;
mod probe;
mod rights;
mod world;
