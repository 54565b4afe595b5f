//! `COPY ... FROM STDIN (FORMAT binary)`: the cheapest way to bring many rows into a table
//! (<https://www.postgresql.org/docs/current/sql-copy.html>, "Binary Format"). The database does not convert values, so
//! each must be written as exactly what its column is.

use crate::{DomainError, Result};
use model::Time;
use sqlx::PgConnection;
use sqlx::postgres::PgCopyIn;
use std::fmt::Display;
use std::io::Write as _;

/// Bytes sent at once: PostgreSQL stores what came while the next rows are written.
const PIECE_BYTES: usize = 256 << 10;
/// Room kept beyond that for the row that fills a piece.
const ROW_BYTES: usize = 4 << 10;
/// Signature, flags and the length of an extension that is not there.
const HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// In place of a row's number of columns: there are no more.
const END: i16 = -1;

/// Rows on their way into a table.
pub(crate) struct CopyIn<'c> {
    copy: PgCopyIn<&'c mut PgConnection>,
    piece: Vec<u8>,
    columns: i16,
}

impl<'c> CopyIn<'c> {
    /// Begins. `statement` names the table and its columns, of which there are `columns`.
    pub(crate) async fn begin(connection: &'c mut PgConnection, statement: &str, columns: i16) -> Result<Self> {
        let mut piece = Vec::with_capacity(PIECE_BYTES + ROW_BYTES);
        piece.extend_from_slice(HEAD);
        Ok(Self {
            copy: connection.copy_in_raw(statement).await?,
            piece,
            columns,
        })
    }

    /// Begins a row; its columns follow in their order.
    pub(crate) async fn row(&mut self) -> Result<()> {
        if self.piece.len() >= PIECE_BYTES {
            self.copy.send(&self.piece[..]).await?;
            self.piece.clear();
        }
        self.piece.extend_from_slice(&self.columns.to_be_bytes());
        Ok(())
    }

    fn column(&mut self, bytes: &[u8]) {
        // What is written here is some bytes long, never two gigabytes.
        let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
        self.piece.extend_from_slice(&length.to_be_bytes());
        self.piece.extend_from_slice(bytes);
    }

    /// A `text`.
    pub(crate) fn text(&mut self, text: &str) {
        self.column(text.as_bytes());
    }

    /// A `text`, from what shows itself as one.
    pub(crate) fn shown(&mut self, value: &impl Display) {
        let at = self.piece.len();
        self.piece.extend_from_slice(&[0; 4]);
        // Writing to a vector cannot fail.
        let _ = write!(self.piece, "{value}");
        let length = i32::try_from(self.piece.len() - at - 4).unwrap_or(i32::MAX);
        self.piece[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// A `smallint`.
    pub(crate) fn smallint(&mut self, number: i16) {
        self.column(&number.to_be_bytes());
    }

    /// A `bigint`.
    pub(crate) fn bigint(&mut self, number: i64) {
        self.column(&number.to_be_bytes());
    }

    /// A `boolean`.
    pub(crate) fn boolean(&mut self, value: bool) {
        self.column(&[u8::from(value)]);
    }

    /// A `timestamptz`.
    pub(crate) fn time(&mut self, time: Time) {
        self.bigint(time.postgres_us());
    }

    /// Sends the rest; how many rows came.
    pub(crate) async fn finish(mut self) -> Result<u64> {
        self.piece.extend_from_slice(&END.to_be_bytes());
        self.copy.send(&self.piece[..]).await?;
        self.copy.finish().await.map_err(DomainError::from)
    }
}
