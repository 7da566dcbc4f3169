//! The SQL: every statement can be prepared, and it merges and measures as the pure core does.
