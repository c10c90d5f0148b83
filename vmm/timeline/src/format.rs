//! Formats as the running kernel publishes them in tracefs: `events/*/*/format`,
//! `events/header_page` and `events/header_event`.
//!
//! A parser of its own: of the crates there are, `libtracecmd` binds a C library that
//! would have to be there, and `tracepoint_decode` knows neither these headers nor the
//! buffers' pages, and adds numbers of the file unchecked.

use crate::error::FormatError;

/// More bytes than any page of a buffer has (order 7 of `buffer_subbuf_size_kb`).
const MOST_PAGE_BYTES: usize = 1 << 20;

/// A field of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    offset_bytes: usize,
    size_bytes: usize,
    signed: bool,
}

impl Field {
    /// The field's value in `record`, sign-extended if it is signed. `None` when the
    /// record ends before it.
    pub fn get(self, record: &[u8]) -> Option<u64> {
        let end = self.offset_bytes.checked_add(self.size_bytes)?;
        let bytes = record.get(self.offset_bytes..end)?;
        let mut word = [0; 8];
        word.get_mut(..bytes.len())?.copy_from_slice(bytes);
        let value = u64::from_le_bytes(word);
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        if self.signed && negative && bytes.len() < 8 {
            return Some(value | u64::MAX << (bytes.len() * 8));
        }
        Some(value)
    }
}

/// Format of one kind of record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFormat {
    id: u64,
    fields: Vec<(String, Field)>,
}

impl EventFormat {
    /// Reads a `format` file.
    ///
    /// # Errors
    /// [`FormatError::Missing`] without an identifier.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let id = text
            .lines()
            .find_map(|line| line.strip_prefix("ID:")?.trim().parse().ok())
            .ok_or_else(|| FormatError::Missing("ID".into()))?;
        Ok(Self {
            id,
            fields: text.lines().filter_map(field).collect(),
        })
    }

    /// The number by which records name their kind (`common_type`).
    pub fn id(&self) -> u64 {
        self.id
    }

    /// A field that is a number.
    ///
    /// # Errors
    /// [`FormatError`] when there is none, or it is no number of 1 to 8 bytes.
    pub fn number(&self, name: &str) -> Result<Field, FormatError> {
        number(&self.fields, name)
    }
}

/// Format of the buffers' pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFormat {
    pub(crate) timestamp: Field,
    pub(crate) commit: Field,
    pub(crate) data_offset_bytes: usize,
    pub(crate) page_bytes: usize,
}

impl PageFormat {
    /// Reads `header_page` and makes sure that `header_event` is the known one.
    ///
    /// # Errors
    /// [`FormatError`] when they are not those of any kernel known here.
    pub fn parse(header_page: &str, header_event: &str) -> Result<Self, FormatError> {
        let fields: Vec<_> = header_page.lines().filter_map(field).collect();
        let timestamp = number(&fields, "timestamp")?;
        let commit = number(&fields, "commit")?;
        let (name, data) = fields
            .iter()
            .find(|(name, _)| name == "data")
            .ok_or_else(|| FormatError::Missing("data".into()))?;
        let page_bytes = data
            .offset_bytes
            .checked_add(data.size_bytes)
            .filter(|bytes| *bytes <= MOST_PAGE_BYTES && data.size_bytes > 0)
            .ok_or_else(|| malformed(name, *data))?;
        check_header_event(header_event)?;
        Ok(Self {
            timestamp,
            commit,
            data_offset_bytes: data.offset_bytes,
            page_bytes,
        })
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }
}

/// The packing of a record's head, as [`crate::page`] takes it apart.
fn check_header_event(text: &str) -> Result<(), FormatError> {
    const KNOWN: [(&str, &str); 7] = [
        ("type_len", "5 bits"),
        ("time_delta", "27 bits"),
        ("array", "32 bits"),
        ("padding", "type == 29"),
        ("time_extend", "type == 30"),
        ("time_stamp", "type == 31"),
        ("data max type_len", "== 28"),
    ];
    for (name, value) in KNOWN {
        let is_known = |line: &str| {
            line.trim()
                .strip_prefix(name)
                .map(|rest| rest.trim_start().trim_start_matches(':').trim())
                == Some(value)
        };
        if !text.lines().any(is_known) {
            return Err(FormatError::Header(name));
        }
    }
    Ok(())
}

/// A line `field:TYPE NAME[COUNT]; offset:N; size:N; signed:N;`.
fn field(line: &str) -> Option<(String, Field)> {
    let mut parts = line.trim().split(';').map(str::trim);
    let declaration = parts.next()?.strip_prefix("field:")?;
    let name = declaration.split_whitespace().last()?;
    let name = name.split('[').next().unwrap_or(name);
    let mut value = |key: &str| {
        parts
            .next()?
            .strip_prefix(key)?
            .trim()
            .parse::<usize>()
            .ok()
    };
    let offset_bytes = value("offset:")?;
    let size_bytes = value("size:")?;
    let signed = value("signed:").unwrap_or(0) != 0;
    Some((
        name.to_owned(),
        Field {
            offset_bytes,
            size_bytes,
            signed,
        },
    ))
}

fn number(fields: &[(String, Field)], name: &str) -> Result<Field, FormatError> {
    let (name, field) = fields
        .iter()
        .find(|(known, _)| known == name)
        .ok_or_else(|| FormatError::Missing(name.to_owned()))?;
    match field.size_bytes {
        1 | 2 | 4 | 8 => Ok(*field),
        _ => Err(malformed(name, *field)),
    }
}

fn malformed(name: &str, field: Field) -> FormatError {
    FormatError::Field {
        name: name.to_owned(),
        offset_bytes: field.offset_bytes,
        size_bytes: field.size_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_with_their_sign() {
        let field = |size_bytes, signed| Field {
            offset_bytes: 1,
            size_bytes,
            signed,
        };
        let record = [0, 0xfe, 0xff, 0xff, 0xff, 1, 2, 3, 4];
        assert_eq!(field(1, false).get(&record), Some(0xfe));
        assert_eq!(field(1, true).get(&record), Some(u64::MAX - 1));
        assert_eq!(field(4, true).get(&record), Some(u64::MAX - 1));
        assert_eq!(field(4, false).get(&record), Some(0xffff_fffe));
        assert_eq!(field(8, true).get(&record), Some(0x0403_0201_ffff_fffe));
        assert_eq!(field(8, true).get(&record[..8]), None);
    }

    #[test]
    fn a_field_of_no_number_is_refused() {
        let format = EventFormat::parse(
            "ID: 7\n\tfield:char buf[];\toffset:8;\tsize:0;\tsigned:0;\n\
             \tfield:u8 level;\toffset:32;\tsize:1;\tsigned:0;\n",
        )
        .expect("an ID");
        assert_eq!(format.id(), 7);
        assert!(matches!(
            format.number("buf"),
            Err(FormatError::Field { .. })
        ));
        assert!(format.number("level").is_ok());
        assert_eq!(
            format.number("gfn"),
            Err(FormatError::Missing("gfn".into()))
        );
    }

    #[test]
    fn another_packing_of_records_is_noticed() {
        let page = "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n\
                    \tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n\
                    \tfield: char data;\toffset:16;\tsize:4080;\tsigned:0;\n";
        let event = "type_len : 5 bits\ntime_delta : 27 bits\narray : 32 bits\n\
                     padding : type == 29\ntime_extend : type == 30\ntime_stamp : type == 31\n\
                     data max type_len  == 28\n";
        let parsed = PageFormat::parse(page, event).expect("the known one");
        assert_eq!((parsed.page_bytes, parsed.data_offset_bytes), (4096, 16));
        let other = event.replace("27", "26");
        assert_eq!(
            PageFormat::parse(page, &other),
            Err(FormatError::Header("time_delta"))
        );
        let endless = page.replace("4080", "18446744073709551615");
        assert!(PageFormat::parse(&endless, event).is_err());
    }
}
