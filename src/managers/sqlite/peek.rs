//! A look into a database file without SQLite: the header, and the mark where it is easily found.
//!
//! Opening ten thousand connections takes seconds; reading two pages of ten thousand files does not. The price is
//! caution: a peek gives an answer only when it found a whole mark in a file at rest (nothing pending in a journal or
//! a write-ahead log before and after, one header before and after, length as the header says). Everything else is SQLite's to answer.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::file::{FileId, MarkRow, Seen, pending};
use super::gate;
use super::image::{MARK_TABLE, READ_VERSION, WAL_VERSION, WRITE_VERSION};
use super::settings::{Settings, page_size};
use crate::model::{JournalMode, Mark};

/// The two first pages of a file with pages of the usual size, where a file made here has its mark.
const FIRST_READ: usize = 8192;
const HEADER: usize = 100;
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const ROLLBACK_VERSION: u8 = 1;
const UTF8: u32 = 1;

/// Kinds of b-tree pages that hold tables.
const INTERIOR: u8 = 5;
const LEAF: u8 = 13;
/// A tree of tables is never deeper in a file that is well.
const DEEPEST: usize = 16;

/// What a peek gave.
#[derive(Debug)]
pub(super) enum Peek {
    /// A file at rest with a mark.
    Seen(Seen),
    /// Ask SQLite. The journal mode is what the header says, where there is one.
    Ask(Option<JournalMode>),
}

/// Reads `path`, which was `file` a moment ago.
pub(super) fn peek(path: &Path, file: FileId) -> io::Result<Peek> {
    let Some(_alone) = gate::plain(path) else { return Ok(Peek::Ask(None)) };
    let resting = !pending(path)?;
    let handle = File::open(path)?;
    let metadata = handle.metadata()?;
    if FileId::of(&metadata) != file {
        return Ok(Peek::Ask(None));
    }
    let mut first = vec![0; FIRST_READ];
    let length = read_up_to(&handle, &mut first)?;
    first.truncate(length);
    let Some(header) = Header::parse(&first) else { return Ok(Peek::Ask(None)) };
    if !resting || !header.fits(metadata.len()) {
        return Ok(Peek::Ask(Some(header.journal_mode)));
    }
    let pages = Pages { handle: &handle, first: &first, header: &header };
    let row = pages.mark();
    if pending(path)? || !first.starts_with(&header_now(&handle)?) {
        return Ok(Peek::Ask(Some(header.journal_mode)));
    }
    Ok(match row {
        None => Peek::Ask(Some(header.journal_mode)),
        Some(row) => Peek::Seen(Seen {
            file,
            settings: Settings {
                journal_mode: header.journal_mode,
                page_size: header.page_size,
                user_version: header.user_version,
                foreign_keys: row.foreign_keys,
            },
            marked: Some(row),
        }),
    })
}

/// The header as it is now. Without a write-ahead log its change counter tells of a transaction that came and went
/// during the look; with one it may not, and an apply looks again under SQLite's lock.
fn header_now(handle: &File) -> io::Result<[u8; HEADER]> {
    let mut header = [0; HEADER];
    handle.read_exact_at(&mut header, 0)?;
    Ok(header)
}

fn read_up_to(handle: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match handle.read_at(rest, filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The parts of a file's header that matter here (https://sqlite.org/fileformat.html).
#[derive(Debug)]
struct Header {
    journal_mode: JournalMode,
    page_size: u32,
    usable: usize,
    user_version: i32,
    /// Pages in the file; `None` when the header does not know.
    pages: Option<u32>,
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..HEADER)?;
        if !header.starts_with(MAGIC) || number(header, 56)? != UTF8 {
            return None;
        }
        let journal_mode = match (header[WRITE_VERSION], header[READ_VERSION]) {
            (ROLLBACK_VERSION, ROLLBACK_VERSION) => JournalMode::Delete,
            (WAL_VERSION, WAL_VERSION) => JournalMode::Wal,
            _ => return None,
        };
        let page_size = match u64::from(short(header, 16)?) {
            // 65536 does not fit in two bytes.
            1 => 65_536,
            bytes => page_size(bytes)?,
        };
        let usable = usize::try_from(page_size).ok()?.checked_sub(usize::from(header[20]))?;
        let pages = (number(header, 24)? == number(header, 92)?).then_some(number(header, 28)?);
        Some(Self { journal_mode, page_size, usable, user_version: number(header, 60)?.cast_signed(), pages })
    }

    fn fits(&self, length: u64) -> bool {
        let page_size = u64::from(self.page_size);
        match self.pages {
            Some(pages) => u64::from(pages) * page_size == length,
            None => length.is_multiple_of(page_size),
        }
    }
}

struct Pages<'a> {
    handle: &'a File,
    first: &'a [u8],
    header: &'a Header,
}

impl Pages<'_> {
    /// The mark, when its table is in the first leaf of the schema and its row is on one page: so in every file that
    /// was made here.
    fn mark(&self) -> Option<MarkRow> {
        let root = self.mark_table()?;
        let page = self.page(root)?;
        let tree = Tree::parse(&page, root)?;
        if tree.kind != LEAF || tree.cells != 1 {
            return None;
        }
        let record = record(tree.leaf_cell(0, self.header.usable)?)?;
        let [Value::Null, Value::Text(id), Value::Text(mark), Value::Integer(foreign_keys)] = record[..] else {
            return None;
        };
        Some(MarkRow { id: id.to_owned(), mark: Mark::from_text(mark)?, foreign_keys: foreign_keys != 0 })
    }

    /// The root page of the mark's table.
    fn mark_table(&self) -> Option<u32> {
        let mut number = 1;
        for _ in 0..DEEPEST {
            let page = self.page(number)?;
            let tree = Tree::parse(&page, number)?;
            if tree.kind == LEAF {
                return (0..tree.cells).find_map(|cell| {
                    let record = record(tree.leaf_cell(cell, self.header.usable)?)?;
                    match record[..] {
                        [
                            Value::Text("table"),
                            Value::Text("plumb_mark"),
                            _,
                            Value::Integer(root),
                            Value::Text(MARK_TABLE),
                        ] => u32::try_from(root).ok(),
                        _ => None,
                    }
                });
            }
            number = tree.first_child()?;
        }
        None
    }

    fn page(&self, page: u32) -> Option<Vec<u8>> {
        let size = usize::try_from(self.header.page_size).ok()?;
        let start = usize::try_from(page.checked_sub(1)?).ok()?.checked_mul(size)?;
        if let Some(bytes) = self.first.get(start..start.checked_add(size)?) {
            return Some(bytes.to_vec());
        }
        let mut bytes = vec![0; size];
        self.handle.read_exact_at(&mut bytes, start as u64).ok()?;
        Some(bytes)
    }
}

/// One page of a table's b-tree.
struct Tree<'a> {
    page: &'a [u8],
    kind: u8,
    cells: usize,
    /// Where the list of cells begins.
    list: usize,
}

impl<'a> Tree<'a> {
    fn parse(page: &'a [u8], number: u32) -> Option<Self> {
        let start = if number == 1 { HEADER } else { 0 };
        let kind = *page.get(start)?;
        let list = start
            + match kind {
                LEAF => 8,
                INTERIOR => 12,
                _ => return None,
            };
        Some(Self { page, kind, cells: usize::from(short(page, start + 3)?), list })
    }

    fn cell(&self, index: usize) -> Option<usize> {
        (index < self.cells).then(|| short(self.page, self.list + 2 * index).map(usize::from))?
    }

    fn first_child(&self) -> Option<u32> {
        number(self.page, self.cell(0)?)
    }

    /// The payload of a cell that lies on this page whole.
    fn leaf_cell(&self, index: usize, usable: usize) -> Option<&'a [u8]> {
        /// What a leaf cell may hold is this much less than the page.
        const OVERHEAD: usize = 35;
        let cell = self.page.get(self.cell(index)?..)?;
        let (length, used) = varint(cell)?;
        let (_rowid, more) = varint(cell.get(used..)?)?;
        let length = usize::try_from(length).ok().filter(|length| *length <= usable.saturating_sub(OVERHEAD))?;
        let start = used + more;
        cell.get(start..start.checked_add(length)?)
    }
}

#[derive(Debug, PartialEq)]
enum Value<'a> {
    Null,
    Integer(i64),
    Text(&'a str),
}

/// The columns of a record; `None` when it holds what no record here holds.
fn record(payload: &[u8]) -> Option<Vec<Value<'_>>> {
    let (header, used) = varint(payload)?;
    let header = usize::try_from(header).ok()?;
    let mut types = payload.get(used..header)?;
    let mut body = payload.get(header..)?;
    let mut values = Vec::new();
    while !types.is_empty() {
        let (serial, used) = varint(types)?;
        types = types.get(used..)?;
        let length = match serial {
            0 | 8 | 9 => 0,
            1..=4 => usize::try_from(serial).ok()?,
            5 => 6,
            6 => 8,
            13.. if serial % 2 == 1 => usize::try_from((serial - 13) / 2).ok()?,
            _ => return None,
        };
        let (bytes, rest) = body.split_at_checked(length)?;
        body = rest;
        values.push(match serial {
            0 => Value::Null,
            8 => Value::Integer(0),
            9 => Value::Integer(1),
            1..=6 => Value::Integer(integer(bytes)),
            _ => Value::Text(std::str::from_utf8(bytes).ok()?),
        });
    }
    Some(values)
}

/// A big-endian number of up to eight bytes, with its sign.
fn integer(bytes: &[u8]) -> i64 {
    let sign = if bytes.first().is_some_and(|byte| byte & 0x80 != 0) { -1 } else { 0 };
    bytes.iter().fold(sign, |value, byte| (value << 8) | i64::from(*byte))
}

/// A number of SQLite's variable length, and how many bytes it took.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    /// The last of nine bytes gives all its bits.
    const LAST: usize = 8;
    let mut value = 0_u64;
    for (index, byte) in bytes.iter().enumerate().take(LAST + 1) {
        if index == LAST {
            return Some(((value << 8) | u64::from(*byte), LAST + 1));
        }
        value = (value << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_variable_length_read_as_sqlite_writes_them() {
        assert_eq!(varint(&[0x7f]), Some((127, 1)));
        assert_eq!(varint(&[0x81, 0x00]), Some((128, 2)));
        assert_eq!(varint(&[0xff; 9]), Some((u64::MAX, 9)));
        assert_eq!(varint(&[0x80]), None);
        assert_eq!(varint(&[]), None);
        assert_eq!(integer(&[0xff, 0xfe]), -2);
        assert_eq!(integer(&[0x01, 0x00]), 256);
    }

    #[test]
    fn a_record_reads_back() {
        // Header of 5 bytes: null, one-byte integer, text of 2, the constant 1.
        let payload = [5, 0, 1, 17, 9, 7, b'h', b'i'];
        assert_eq!(record(&payload), Some(vec![Value::Null, Value::Integer(7), Value::Text("hi"), Value::Integer(1)]));
    }

    #[test]
    fn rubbish_gives_no_answer_and_no_panic() {
        for length in [0, 1, 16, 99, 100, 512, 8192] {
            for fill in [0x00, 0x05, 0x0d, 0x80, 0xff] {
                let mut bytes = vec![fill; length];
                let _ = record(&bytes);
                let _ = Tree::parse(&bytes, 1).and_then(|tree| tree.leaf_cell(0, 4096).map(<[u8]>::len));
                let _ = Tree::parse(&bytes, 2).and_then(|tree| tree.first_child());
                assert!(Header::parse(&bytes).is_none());
                if let Some(start) = bytes.get_mut(..16) {
                    start.copy_from_slice(MAGIC);
                    assert!(Header::parse(&bytes).is_none());
                }
            }
        }
    }
}
