//! Offsets of a partition: the range in its log, and the one that the group has committed.

/// The range of offsets that a log contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// The first offset that can be read.
    pub low: i64,
    /// The end offset, which the next record gets.
    pub high: i64,
}

/// The group's committed offset of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The offset of the next record to read.
    pub offset: i64,
    /// The tag from the commit's metadata.
    pub tag: CommitTag,
}

/// The metadata of a committed group offset. It separates commits of this module from commits of
/// another program that moved the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitTag {
    /// This module committed the offset, and every record before it is in the database.
    Durable,
    /// This module committed the offset after it skipped the records before it: their tenant was
    /// disabled.
    TenantDisabled,
    /// Another program committed the offset.
    Foreign,
}

impl CommitTag {
    /// Returns the metadata text to commit with the offset.
    pub fn metadata(self) -> &'static str {
        match self {
            Self::Durable => "patron-blocks durable",
            Self::TenantDisabled => "patron-blocks tenant-disabled",
            Self::Foreign => "",
        }
    }

    /// Parses the metadata text of a committed offset.
    pub fn from_metadata(text: &str) -> Self {
        let matches_text = |tag: &Self| tag.metadata() == text;
        [Self::Durable, Self::TenantDisabled]
            .into_iter()
            .find(matches_text)
            .unwrap_or(Self::Foreign)
    }
}
