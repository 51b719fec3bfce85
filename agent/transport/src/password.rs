//! The password of a peer, which nothing prints.

use std::fmt;

/// The kernel's limit (`TCP_MD5SIG_MAXKEYLEN`), in octets.
pub const MAX_PASSWORD: usize = 80;

/// 1 to [`MAX_PASSWORD`] octets, signed with as they are.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Box<[u8]>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    #[error("is empty")]
    Empty,
    #[error("has more than the {MAX_PASSWORD} octets that the kernel takes")]
    TooLong,
}

impl Password {
    /// One line end after the password is not part of it: editors and `echo` leave one, and no BGP daemon's own
    /// configuration could hold it.
    pub fn from_file(content: &[u8]) -> Result<Password, PasswordError> {
        let content = content.strip_suffix(b"\n").unwrap_or(content);
        let content = content.strip_suffix(b"\r").unwrap_or(content);
        match content.len() {
            0 => Err(PasswordError::Empty),
            1..=MAX_PASSWORD => Ok(Password(content.into())),
            _ => Err(PasswordError::TooLong),
        }
    }

    pub(crate) fn octets(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_not_part_of_a_password_and_a_second_is() {
        let octets = |content: &[u8]| Password::from_file(content).map(|p| p.octets().to_vec());
        assert_eq!(octets(b"secret").unwrap(), b"secret");
        assert_eq!(octets(b"secret\n").unwrap(), b"secret");
        assert_eq!(octets(b"secret\r\n").unwrap(), b"secret");
        assert_eq!(octets(b"secret\n\n").unwrap(), b"secret\n");
        assert_eq!(octets(b" \n").unwrap(), b" ");
        assert_eq!(octets(b"\n"), Err(PasswordError::Empty));
        assert_eq!(octets(&[b'x'; 80]).unwrap().len(), 80);
        assert_eq!(octets(&[b'x'; 81]), Err(PasswordError::TooLong));
    }

    #[test]
    fn a_password_does_not_print() {
        let password = Password::from_file(b"secret").unwrap();
        assert_eq!(format!("{password:?}"), "Password(..)");
    }
}
