use std::path::Path;

use plumb::validate::{DocumentKind, schema_for};

/// `PLUMB_BLESS=1` writes the files anew.
#[test]
fn the_schema_files_are_what_the_types_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    for kind in DocumentKind::ALL {
        let mut text = serde_json::to_string_pretty(&schema_for(kind.as_str()).unwrap()).unwrap();
        text.push('\n');
        let file = folder.join(format!("{}.v1.json", kind.as_str()));
        if std::env::var_os("PLUMB_BLESS").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(written == text, "{} is out of date; run the tests with PLUMB_BLESS=1", file.display());
    }
}
