//! Rows in the binary format of PostgreSQL's `COPY`, as the PostgreSQL manual describes the format.

use sqlx::{
    Encode, Postgres,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgConnection},
};

/// The error of a value that cannot be encoded for PostgreSQL.
pub(super) type EncodeError = BoxDynError;

/// The signature, the flags, and the length of the header extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// A buffer of encoded rows.
pub struct CopyBuffer {
    bytes: PgArgumentBuffer,
    columns: usize,
}

impl CopyBuffer {
    /// Creates an empty buffer for rows with `columns` columns.
    pub(super) fn new(columns: usize) -> Self {
        let mut bytes = PgArgumentBuffer::default();
        bytes.extend_from_slice(HEADER);
        Self { bytes, columns }
    }

    /// Starts a row. The caller has to push every column of the row.
    pub(super) fn begin_row(&mut self) {
        let columns = i16::try_from(self.columns).expect("a table has at most 1,600 columns");
        self.bytes.extend_from_slice(&columns.to_be_bytes());
    }

    /// Appends the next column of the row.
    pub(super) fn push<'q>(&mut self, value: impl Encode<'q, Postgres>) -> Result<(), EncodeError> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&(-1_i32).to_be_bytes());
        if matches!(value.encode(&mut self.bytes)?, IsNull::No) {
            let length = i32::try_from(self.bytes.len() - start - 4)?;
            self.bytes[start..start + 4].copy_from_slice(&length.to_be_bytes());
        }
        Ok(())
    }

    /// Sends the rows with a `COPY … FROM STDIN` statement.
    pub(super) async fn send(
        mut self,
        db: &mut PgConnection,
        sql: &str,
    ) -> Result<(), sqlx::Error> {
        self.bytes.extend_from_slice(&(-1_i16).to_be_bytes());
        let mut copy = db.copy_in_raw(sql).await?;
        if let Err(error) = copy.send(&self.bytes[..]).await {
            copy.abort("the client could not send all rows").await?;
            return Err(error);
        }
        copy.finish().await.map(|_| ())
    }
}
