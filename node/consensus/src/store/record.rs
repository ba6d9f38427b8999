//! Records: a CRC-32 before the bytes, over the key and the bytes.
//!
//! redb checks its pages when it opens a file; this check is ours, so that what the file system,
//! the disk or another program did to one record is found whatever the pages say. The key is part
//! of it: a record that turns up under another key is damage too.

use serde::Serialize;
use serde::de::DeserializeOwned;

const CRC_BYTES: usize = 4;

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("it is {0} bytes long, shorter than its checksum")]
    Short(usize),
    #[error("its checksum is {found:08x}, its content has {computed:08x}")]
    Checksum { found: u32, computed: u32 },
    #[error("its checksum is right but its content cannot be read: {0}")]
    Content(String),
}

/// Encodes `value` for storage under `key`.
pub(crate) fn encode<T: Serialize>(key: &[u8], value: &T) -> Result<Vec<u8>, RecordError> {
    let json = serde_json::to_vec(value).map_err(|e| RecordError::Content(e.to_string()))?;
    Ok(seal(key, &json))
}

/// Decodes what was stored under `key`.
pub(crate) fn decode<T: DeserializeOwned>(key: &[u8], record: &[u8]) -> Result<T, RecordError> {
    let json = open(key, record)?;
    serde_json::from_slice(json).map_err(|e| RecordError::Content(e.to_string()))
}

/// Puts the checksum before `bytes`.
pub(crate) fn seal(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(CRC_BYTES + bytes.len());
    record.extend_from_slice(&checksum(key, bytes).to_le_bytes());
    record.extend_from_slice(bytes);
    record
}

/// Checks the checksum and returns the bytes after it.
pub(crate) fn open<'a>(key: &[u8], record: &'a [u8]) -> Result<&'a [u8], RecordError> {
    let Some((crc, bytes)) = record.split_first_chunk::<CRC_BYTES>() else {
        return Err(RecordError::Short(record.len()));
    };
    let found = u32::from_le_bytes(*crc);
    let computed = checksum(key, bytes);
    if found != computed {
        return Err(RecordError::Checksum { found, computed });
    }
    Ok(bytes)
}

fn checksum(key: &[u8], bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_found() {
        let record = seal(b"key", b"some content");
        assert_eq!(open(b"key", &record).unwrap(), b"some content");
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(open(b"key", &damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_record_under_another_key_is_found() {
        let record = seal(&1_u64.to_be_bytes(), b"entry 1");
        assert!(open(&2_u64.to_be_bytes(), &record).is_err());
    }

    #[test]
    fn short_records_are_refused() {
        for length in 0..CRC_BYTES {
            assert!(matches!(open(b"", &vec![0; length]), Err(RecordError::Short(_))));
        }
    }
}
