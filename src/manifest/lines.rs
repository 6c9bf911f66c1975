//! Turns byte offsets into spans without counting from the start of the file each time, so that a file with very many
//! findings, or one very long line, stays cheap.

use crate::model::Span;

/// How far apart the remembered positions are: a look-up counts at most this many bytes.
const STRIDE: usize = 1024;

/// Line and column (from 1) at every [`STRIDE`]th byte.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    checkpoints: Vec<Checkpoint>,
}

#[derive(Clone, Copy, Debug)]
struct Checkpoint {
    offset: usize,
    line: usize,
    column: usize,
}

impl Lines {
    pub(super) fn of(text: &str) -> Self {
        let mut here = Checkpoint { offset: 0, line: 1, column: 1 };
        let mut checkpoints = vec![here];
        for (offset, character) in text.char_indices() {
            if offset >= checkpoints.len() * STRIDE {
                here.offset = offset;
                checkpoints.push(here);
            }
            here.step(character);
        }
        Self { checkpoints }
    }

    /// The span of `start..end` in `text`, the text this was made of.
    pub(super) fn span(&self, text: &str, start: usize, end: usize) -> Span {
        let start = self.find(text, start);
        let end = self.find(text, end.max(start.offset));
        Span {
            start: start.offset,
            end: end.offset,
            line: start.line,
            column: start.column,
            end_line: end.line,
            end_column: end.column,
        }
    }

    fn find(&self, text: &str, offset: usize) -> Checkpoint {
        let after = self.checkpoints.partition_point(|checkpoint| checkpoint.offset <= offset);
        let mut here = self.checkpoints[after.saturating_sub(1)];
        for character in text[here.offset..].chars() {
            if here.offset + character.len_utf8() > offset {
                break;
            }
            here.offset += character.len_utf8();
            here.step(character);
        }
        here
    }
}

impl Checkpoint {
    fn step(&mut self, character: char) {
        if character == '\n' {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_those_that_counting_from_the_start_gives() {
        let text: String = (0..400).map(|line| format!("schlüssel{line}: ☃ wert\r\n")).collect();
        let lines = Lines::of(&text);
        for start in (0..text.len() + 5).step_by(7) {
            assert_eq!(lines.span(&text, start, start + 30), Span::locate(&text, start, start + 30), "{start}");
        }
    }
}
