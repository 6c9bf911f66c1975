//! The codes of what `source` refuses. Each of them means: something below the path could not be read, so nothing may
//! be pruned (R9); [`IGNORE_PATTERN_INVALID`] alone is a warning, since it makes more be read, never less.

use crate::model::Code;

/// A symbolic link that is not followed.
pub const SYMLINK_REFUSED: Code = Code::new("SymlinkRefused");
/// A submodule, or a repository inside the working tree.
pub const SUBMODULE_REFUSED: Code = Code::new("SubmoduleRefused");
/// A file over [`super::MAX_FILE_BYTES`].
pub const FILE_TOO_LARGE: Code = Code::new("FileTooLarge");
/// More than [`super::MAX_MANIFESTS`] files.
pub const TOO_MANY_MANIFESTS: Code = Code::new("TooManyManifests");
/// A path that is not plain text, or too deep.
pub const PATH_REFUSED: Code = Code::new("PathRefused");
/// The folder that was asked for is not there.
pub const FOLDER_MISSING: Code = Code::new("FolderMissing");
/// A file or folder that the system does not let us read.
pub const FILE_UNREADABLE: Code = Code::new("FileUnreadable");
/// A line of `.plumbignore` that is no pattern.
pub const IGNORE_PATTERN_INVALID: Code = Code::new("IgnorePatternInvalid");

/// All of them, for the list of codes.
pub const ALL: &[Code] = &[
    SYMLINK_REFUSED,
    SUBMODULE_REFUSED,
    FILE_TOO_LARGE,
    TOO_MANY_MANIFESTS,
    PATH_REFUSED,
    FOLDER_MISSING,
    FILE_UNREADABLE,
    IGNORE_PATTERN_INVALID,
];
