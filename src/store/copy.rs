//! Rows in PostgreSQL's binary format of `COPY`, as its manual describes it.

use sqlx::{
    Encode, Postgres,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgConnection},
};

/// A value can't be told to PostgreSQL.
pub(super) type EncodeError = BoxDynError;

/// Signature, flags, and the length of a header's extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// Rows on their way.
pub(super) struct CopyBuffer {
    bytes: PgArgumentBuffer,
    columns: i16,
}

impl CopyBuffer {
    /// None yet, of so many columns.
    pub(super) fn new(columns: i16) -> Self {
        let mut bytes = PgArgumentBuffer::default();
        bytes.extend_from_slice(HEADER);
        Self { bytes, columns }
    }

    /// Begins a row: all of its columns have to be put.
    pub(super) fn begin_row(&mut self) {
        let columns = self.columns.to_be_bytes();
        self.bytes.extend_from_slice(&columns);
    }

    /// The next column.
    pub(super) fn push<'q>(&mut self, value: impl Encode<'q, Postgres>) -> Result<(), EncodeError> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&(-1_i32).to_be_bytes());
        if matches!(value.encode(&mut self.bytes)?, IsNull::No) {
            let length = i32::try_from(self.bytes.len() - start - 4)?;
            self.bytes[start..start + 4].copy_from_slice(&length.to_be_bytes());
        }
        Ok(())
    }

    /// Sends them, with a statement that takes them from its client.
    pub(super) async fn send(
        mut self,
        db: &mut PgConnection,
        sql: &str,
    ) -> Result<(), sqlx::Error> {
        self.bytes.extend_from_slice(&(-1_i16).to_be_bytes());
        let mut copy = db.copy_in_raw(sql).await?;
        if let Err(error) = copy.send(&self.bytes[..]).await {
            copy.abort("not all could be sent").await?;
            return Err(error);
        }
        copy.finish().await.map(|_| ())
    }
}
