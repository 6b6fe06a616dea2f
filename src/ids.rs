//! Identifiers of the records codexd makes itself.

use uuid::Uuid;

use crate::clock;

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// A new daemon id: a random UUID (RFC 9562, version 4).
pub fn daemon_id() -> String {
    Uuid::new_v4().to_string()
}

/// `<kind>-<ms since 1970 in base 36>-<6 random base-36 characters>`, for example `session-mwpqgany-m99ejh`.
pub fn record_id(kind: &str) -> String {
    let random = Uuid::new_v4().as_u128() % 36_u128.pow(6);
    format!("{kind}-{}-{:0>6}", base36(u128::from(clock::unix_millis())), base36(random))
}

fn base36(mut number: u128) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(DIGITS[(number % 36) as usize]);
        number /= 36;
        if number == 0 {
            break;
        }
    }
    digits.iter().rev().map(|&digit| char::from(digit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base36_as_in_javascript() {
        assert_eq!(base36(0), "0");
        assert_eq!(base36(35), "z");
        assert_eq!(base36(36), "10");
        assert_eq!(base36(1_774_193_968_123), "mn1xa397");
    }

    #[test]
    fn record_ids_have_the_contracts_form() {
        for _ in 0..1_000 {
            let id = record_id("session");
            let parts: Vec<&str> = id.split('-').collect();
            assert_eq!(parts.len(), 3, "{id}");
            assert_eq!(parts[0], "session");
            assert_eq!(parts[2].len(), 6, "{id}");
            assert!(parts[1..].iter().all(|part| part.bytes().all(|byte| DIGITS.contains(&byte))), "{id}");
        }
    }
}
