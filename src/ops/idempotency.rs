//! `Idempotency-Key`: the same key and body again is the first answer again. The key is part of the record, so it
//! survives what the record survives.

use std::sync::Arc;

use uuid::Uuid;

use super::OpError;
use crate::clock;
use crate::model::record::{Idempotency, Idempotent};

/// How long a key is remembered, in milliseconds: 24 h.
const LIFETIME: u64 = 24 * 60 * 60 * 1000;
/// The longest key, in bytes.
const LONGEST: usize = 255;

/// A key with the body it came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    name: String,
    body: String,
}

impl Key {
    /// A key as a client sent it.
    ///
    /// # Errors
    /// When it is empty or longer than 255 bytes.
    pub fn new(name: &str, body: &[u8]) -> Result<Self, OpError> {
        let name = name.trim();
        if name.is_empty() || name.len() > LONGEST {
            return Err(OpError::BadRequest(format!(
                "`Idempotency-Key` must have 1 to {LONGEST} characters."
            )));
        }
        // A name-based UUID (RFC 9562, version 5) is a digest that stays the same across versions of this program.
        let body = Uuid::new_v5(&Uuid::NAMESPACE_OID, body).to_string();
        Ok(Self { name: name.to_owned(), body })
    }

    /// The key itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As it is kept in the record.
    pub fn record(self) -> Idempotency {
        Idempotency { key: self.name, body: self.body }
    }

    /// The record that this key and body have made; `record`: the one that has the key.
    ///
    /// # Errors
    /// [`OpError::IdempotencyMismatch`] when another body has made it.
    pub fn made<T: Idempotent>(&self, record: Option<&Arc<T>>) -> Result<Option<Arc<T>>, OpError> {
        let Some((record, known)) = record.and_then(|record| Some((record, record.idempotency()?))) else {
            return Ok(None);
        };
        let age = clock::unix_millis().saturating_sub(clock::parse_iso(record.created_at()).unwrap_or(0));
        if age > LIFETIME {
            Ok(None)
        } else if known.body == self.body {
            Ok(Some(Arc::clone(record)))
        } else {
            Err(OpError::IdempotencyMismatch)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::record::Run;

    #[test]
    fn a_key_is_remembered_for_a_day() {
        let key = Key::new(" k ", b"{}").unwrap();
        let seen = |age: u64, body: &Key| {
            let record = serde_json::json!({
                "runId": "r", "status": "completed", "adapter": "a", "prompt": "p", "updatedAt": "",
                "createdAt": clock::iso(clock::unix_millis() - age), "metadata": {},
                "idempotency": body.clone().record(),
            });
            let record: Arc<Run> = Arc::new(serde_json::from_value(record).unwrap());
            match key.made(Some(&record)) {
                Ok(None) => "never",
                Ok(Some(_)) => "same",
                Err(OpError::IdempotencyMismatch) => "other",
                Err(error) => panic!("{error}"),
            }
        };
        let other = Key::new("k", b"{ }").unwrap();
        let minute = 60_000;
        assert_eq!([seen(0, &key), seen(0, &other)], ["same", "other"]);
        assert_eq!(seen(LIFETIME - minute, &key), "same");
        assert_eq!([seen(LIFETIME + minute, &key), seen(LIFETIME + minute, &other)], ["never"; 2]);
    }
}
