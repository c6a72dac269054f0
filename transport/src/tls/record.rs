//! Pure. TLS 1.3 records (RFC 8446, section 5), encrypted without an intermediate copy and decrypted in place.
//!
//! rustls performs the handshake and exports its traffic keys (`rustls::kernel`, made for kernel TLS). Its own record
//! layer copies each byte twice more on the way in and reads 16 KiB at a time; moving bytes is most of what a tunnel
//! costs.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;
use thiserror::Error;

/// Type, version and length.
pub(crate) const HEADER: usize = 5;
/// Longest content of one record (RFC 8446, 5.1).
pub(crate) const LONGEST_CONTENT: usize = 16 * 1024;
/// Longest record after its header: content, its type, and what an AEAD may add (RFC 8446, 5.2).
const LONGEST_SEALED: usize = LONGEST_CONTENT + 256;
/// Longest record with its header.
pub(crate) const LONGEST_RECORD: usize = HEADER + LONGEST_SEALED;
/// Authentication tag of AES-GCM.
const TAG: usize = 16;
/// Inner content type and tag: what encryption adds after the content.
const TRAILER: usize = 1 + TAG;
/// Bytes by which a record exceeds its content.
pub(crate) const OVERHEAD: usize = HEADER + TRAILER;
/// Records after which the key is updated: half of the limit of AES-GCM (RFC 8446, 5.5: 2^24.5).
pub(crate) const RECORDS_PER_KEY: u64 = 1 << 23;

/// Content types (RFC 8446, 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Application data.
    Data,
    /// Part of a handshake message.
    Handshake,
    /// An alert.
    Alert,
}

impl Content {
    fn code(self) -> u8 {
        match self {
            Self::Alert => 21,
            Self::Handshake => 22,
            Self::Data => 23,
        }
    }

    fn of(code: u8) -> Result<Self, RecordError> {
        match code {
            21 => Ok(Self::Alert),
            22 => Ok(Self::Handshake),
            23 => Ok(Self::Data),
            other => Err(RecordError::Content(other)),
        }
    }
}

/// Why a record is rejected.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    /// The header is not that of an encrypted record.
    #[error("a record that is not encrypted, of type {0}")]
    Header(u8),
    /// Longer than the protocol allows.
    #[error("a record of {0} bytes is too long")]
    TooLong(usize),
    /// Authentication failed: altered, or encrypted with another key.
    #[error("a record that cannot be decrypted")]
    Undecipherable,
    /// An unexpected inner content type.
    #[error("a record with content of type {0}")]
    Content(u8),
    /// A cipher suite that was not offered.
    #[error("a cipher suite that was not offered")]
    Suite,
    /// The output buffer is too small.
    #[error("no room for a record")]
    NoRoom,
    /// The key has reached its usage limit.
    #[error("the key has reached its usage limit")]
    UsedUp,
}

/// The key of one direction and the next sequence number.
struct Key {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

impl Key {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, RecordError> {
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            _ => return Err(RecordError::Suite),
        };
        let unbound = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| RecordError::Suite)?;
        let iv = iv.as_ref().try_into().map_err(|_| RecordError::Suite)?;
        Ok(Self { key: LessSafeKey::new(unbound), iv, sequence })
    }

    /// The nonce of the next record (RFC 8446, 5.3). Sequence numbers are counted here and nowhere else, so that none
    /// is used twice.
    fn next_nonce(&mut self) -> Result<Nonce, RecordError> {
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence = self.sequence.checked_add(1).ok_or(RecordError::UsedUp)?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

/// Encrypts records.
pub(crate) struct Sealer(Key);

impl Sealer {
    pub(crate) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Result<Self, RecordError> {
        Key::new(secrets).map(Self)
    }

    /// Records encrypted with this key.
    pub(crate) fn sealed(&self) -> u64 {
        self.0.sequence
    }

    /// Encrypts `content` (at most [`LONGEST_CONTENT`] bytes) into the beginning of `out`, which has room for it and
    /// [`OVERHEAD`]; returns the length of the record.
    pub(crate) fn seal(&mut self, of: Content, content: &[u8], out: &mut [u8]) -> Result<usize, RecordError> {
        let (header, nonce, body) = self.begin(content.len(), out)?;
        let (text, trailer) = body.split_at_mut(content.len());
        self.0
            .key
            .seal_out_of_place_scatter(nonce, Aad::from(header), content, text, &[of.code()], trailer)
            .map_err(|_| RecordError::UsedUp)?;
        Ok(content.len() + OVERHEAD)
    }

    /// Like [`Sealer::seal`], for `content` bytes that are in `out` already, after room for a header.
    pub(crate) fn seal_in_place(&mut self, of: Content, content: usize, out: &mut [u8]) -> Result<usize, RecordError> {
        let (header, nonce, body) = self.begin(content, out)?;
        let (text, trailer) = body.split_at_mut(content);
        self.0
            .key
            .seal_in_place_scatter(nonce, Aad::from(header), text, &[of.code()], trailer)
            .map_err(|_| RecordError::UsedUp)?;
        Ok(content + OVERHEAD)
    }

    fn begin<'o>(
        &mut self,
        content: usize,
        out: &'o mut [u8],
    ) -> Result<([u8; HEADER], Nonce, &'o mut [u8]), RecordError> {
        let header = header(content + TRAILER)?;
        let record = out.get_mut(..content + OVERHEAD).ok_or(RecordError::NoRoom)?;
        let (head, body) = record.split_at_mut(HEADER);
        head.copy_from_slice(&header);
        Ok((header, self.0.next_nonce()?, body))
    }
}

fn header(sealed: usize) -> Result<[u8; HEADER], RecordError> {
    if sealed > LONGEST_CONTENT + TRAILER {
        return Err(RecordError::TooLong(sealed));
    }
    // The outer header is that of TLS 1.2 application data (RFC 8446, 5.2).
    let [high, low] = u16::try_from(sealed).map_err(|_| RecordError::TooLong(sealed))?.to_be_bytes();
    Ok([Content::Data.code(), 3, 3, high, low])
}

/// Length of the record at the start of `bytes`, header included; `None` if the header is incomplete.
pub(crate) fn record_len(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    let [kind, _, _, high, low, ..] = *bytes else { return Ok(None) };
    if kind != Content::Data.code() {
        return Err(RecordError::Header(kind));
    }
    let sealed = usize::from(u16::from_be_bytes([high, low]));
    if sealed > LONGEST_SEALED { Err(RecordError::TooLong(sealed)) } else { Ok(Some(HEADER + sealed)) }
}

/// Decrypts records.
pub(crate) struct Opener(Key);

impl Opener {
    pub(crate) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Result<Self, RecordError> {
        Key::new(secrets).map(Self)
    }

    /// Decrypts one whole record in place; returns its type and the length of its content, which begins after the
    /// header.
    pub(crate) fn open(&mut self, record: &mut [u8]) -> Result<(Content, usize), RecordError> {
        let (header, sealed) = record.split_at_mut_checked(HEADER).ok_or(RecordError::Undecipherable)?;
        let aad = Aad::from(<[u8; HEADER]>::try_from(&*header).map_err(|_| RecordError::Undecipherable)?);
        let nonce = self.0.next_nonce()?;
        let plain = self.0.key.open_in_place(nonce, aad, sealed).map_err(|_| RecordError::Undecipherable)?;
        // Zeros after the content type are padding (RFC 8446, 5.4).
        let code_at = plain.iter().rposition(|byte| *byte != 0).ok_or(RecordError::Content(0))?;
        if code_at > LONGEST_CONTENT {
            return Err(RecordError::TooLong(code_at));
        }
        Ok((Content::of(plain[code_at])?, code_at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::crypto::cipher::{AeadKey, Iv};

    use super::*;

    fn secrets(sequence: u64) -> (u64, ConnectionTrafficSecrets) {
        let (key, iv) = (AeadKey::from([7; 32]), Iv::new([9; NONCE_LEN]));
        (sequence, ConnectionTrafficSecrets::Aes256Gcm { key, iv })
    }

    fn pair(sequence: u64) -> (Sealer, Opener) {
        (Sealer::new(secrets(sequence)).unwrap(), Opener::new(secrets(sequence)).unwrap())
    }

    fn sealed(sealer: &mut Sealer, content: &[u8]) -> Vec<u8> {
        let mut out = vec![0; content.len() + OVERHEAD];
        assert_eq!(sealer.seal(Content::Data, content, &mut out), Ok(out.len()));
        out
    }

    #[test]
    fn what_is_altered_does_not_open() {
        for at in [0, 4, 5, 20, 30] {
            let (mut sealer, mut opener) = pair(3);
            let mut out = sealed(&mut sealer, b"hello world");
            out[at] ^= 1;
            assert_eq!(opener.open(&mut out), Err(RecordError::Undecipherable), "{at}");
        }
    }

    #[test]
    fn a_record_cannot_be_replayed_or_left_out() {
        let (mut sealer, mut opener) = pair(0);
        let records = [(); 3].map(|()| sealed(&mut sealer, b"x"));
        assert_eq!(opener.open(&mut records[0].clone()), Ok((Content::Data, 1)));
        assert_eq!(opener.open(&mut records[0].clone()), Err(RecordError::Undecipherable));
        assert_eq!(opener.open(&mut records[2].clone()), Ok((Content::Data, 1)));
        assert_eq!(opener.open(&mut records[1].clone()), Err(RecordError::Undecipherable));
    }

    #[test]
    fn a_record_without_content_type_is_refused() {
        let key = Key::new(secrets(0)).unwrap();
        for (plain, error) in [(vec![0; 10], RecordError::Content(0)), (vec![1, 20, 0], RecordError::Content(20))] {
            let header = header(plain.len() + TAG).unwrap();
            let mut record = plain;
            let nonce = Nonce::assume_unique_for_key(key.iv);
            key.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut record).unwrap();
            record.splice(0..0, header);
            assert_eq!(pair(0).1.open(&mut record), Err(error));
        }
    }

    #[test]
    fn only_encrypted_records_of_legal_length_are_read() {
        assert_eq!(record_len(&[23, 3, 3, 0]), Ok(None));
        assert_eq!(record_len(&[23, 3, 3, 1, 2, 0]), Ok(Some(HEADER + 258)));
        assert_eq!(record_len(&[22, 3, 3, 0, 1]), Err(RecordError::Header(22)));
        assert_eq!(record_len(b"GET /"), Err(RecordError::Header(b'G')));
        assert_eq!(record_len(&[23, 3, 3, 0x41, 1]), Err(RecordError::TooLong(0x4101)));
        let (mut sealer, _) = pair(0);
        let long = vec![0; LONGEST_CONTENT + 1];
        assert!(matches!(sealer.seal(Content::Data, &long, &mut [0; 20_000]), Err(RecordError::TooLong(_))));
        assert_eq!(sealer.seal(Content::Data, b"x", &mut [0; OVERHEAD]), Err(RecordError::NoRoom));
    }

    #[test]
    fn a_key_is_never_used_twice_with_one_number() {
        let (mut sealer, _) = pair(u64::MAX);
        assert_eq!(sealer.seal(Content::Data, b"x", &mut [0; 100]), Err(RecordError::UsedUp));
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 1..10),
            sequence in 0..1_u64 << 40,
        ) {
            let (mut sealer, mut opener) = pair(sequence);
            let mut out = Vec::new();
            for (n, content) in contents.iter().enumerate() {
                let mut record = sealed(&mut sealer, content);
                if n % 2 == 1 {
                    sealer.0.sequence -= 1;
                    record[HEADER..HEADER + content.len()].copy_from_slice(content);
                    sealer.seal_in_place(Content::Data, content.len(), &mut record).unwrap();
                }
                out.extend(record);
            }
            let mut at = 0;
            for content in &contents {
                let len = record_len(&out[at..]).unwrap().unwrap();
                let (of, content_len) = opener.open(&mut out[at..at + len]).unwrap();
                prop_assert_eq!(of, Content::Data);
                prop_assert_eq!(&out[at + HEADER..at + HEADER + content_len], &content[..]);
                at += len;
            }
            prop_assert_eq!(at, out.len());
        }

        #[test]
        fn any_bytes_open_or_do_not(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = record_len(&bytes);
            prop_assert!(pair(0).1.open(&mut bytes).is_err());
        }
    }
}
