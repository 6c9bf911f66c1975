//! The names of findings. They are stable: people filter and link by them. Every code stands here once, with a
//! sentence that says what it means.

use crate::model::Code;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        $($(#[doc = $doc])+ pub const $name: Code = Code::new($text);)+

        /// Every code, with what it means.
        pub const ALL: &[(Code, &str)] = &[$(($name, concat!($($doc,)+)),)+];
    };
}

codes! {
    // Reading YAML: made by `manifest`.

    /// The file is larger than a manifest may be.
    FILE_TOO_LARGE = "FileTooLarge",
    /// The file holds more documents than are read from one file.
    TOO_MANY_DOCUMENTS = "TooManyDocuments",
    /// The file has so many findings that the rest of it was not read.
    TOO_MANY_FINDINGS = "TooManyFindings",
    /// The file is no text in UTF-8, or holds characters that YAML does not allow.
    NOT_TEXT = "NotText",
    /// The document is not well-formed YAML.
    YAML_SYNTAX = "YamlSyntax",
    /// A mapping has the same key twice.
    DUPLICATE_KEY = "DuplicateKey",
    /// The document has more keys and values than are read.
    DOCUMENT_TOO_LARGE = "DocumentTooLarge",
    /// Lists and mappings are nested deeper than is read.
    NESTED_TOO_DEEP = "NestedTooDeep",
    /// Aliases make the document much larger than its text.
    TOO_MANY_ALIASES = "TooManyAliases",
    /// An alias stands inside the value that it repeats.
    RECURSIVE_ALIAS = "RecursiveAlias",
    /// The key of a mapping is not a text.
    NON_STRING_KEY = "NonStringKey",
    /// A YAML tag, which is not supported.
    YAML_TAG = "YamlTag",
    /// A YAML merge key, which is not supported.
    MERGE_KEY = "MergeKey",
    /// A number that is too large, or is none (infinity, not-a-number).
    NUMBER_OUT_OF_RANGE = "NumberOutOfRange",
    /// A document that is not a mapping.
    NOT_A_MAPPING = "NotAMapping",
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_is_camel_case_unique_and_explained() {
        let names: BTreeSet<&str> = ALL.iter().map(|(code, _)| code.0.as_ref()).collect();
        assert_eq!(names.len(), ALL.len());
        for (code, explanation) in ALL {
            assert!(code.0.starts_with(|c: char| c.is_ascii_uppercase()), "{code}");
            assert!(code.0.chars().all(|c| c.is_ascii_alphanumeric()), "{code}");
            assert!(explanation.ends_with('.'), "{code}");
        }
    }
}
