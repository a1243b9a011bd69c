//! The table in `docs/injection.md` says what there is.

use std::collections::BTreeSet;

use poolkeeper::operator::inject::Verdict;

use crate::golden::shapes;
use crate::world::file;

#[test]
fn every_row_is_a_golden_file_and_every_refusal_a_row() {
    let text = std::fs::read_to_string(file("docs/injection.md")).unwrap();
    let rows: Vec<Vec<_>> =
        text.lines().filter(|line| line.starts_with('|')).map(|line| line.split('|').collect()).collect();
    let mut named = BTreeSet::new();
    for cells in rows.iter().filter(|cells| cells.len() == 5 && !cells[3].contains("::") && cells[3].contains('`')) {
        let (says, name) = (cells[2].trim(), cells[3].trim().trim_matches('`'));
        if says.starts_with("refused") || says.starts_with("warned") {
            let refused = says.starts_with("refused");
            let shape =
                shapes().into_iter().find(|shape| shape.name == name).unwrap_or_else(|| panic!("no file {name}"));
            match shape.verdict() {
                Verdict::Deny(_) => assert!(refused, "{name} is refused"),
                Verdict::Inject(injected) => assert!(!refused && !injected.warnings.is_empty(), "{name} is warned of"),
                Verdict::Skip(_) => panic!("{name} is passed over"),
            }
            named.insert(name.to_owned());
        }
    }
    for shape in shapes() {
        let tells = match shape.verdict() {
            Verdict::Deny(_) => true,
            Verdict::Inject(injected) => !injected.warnings.is_empty(),
            Verdict::Skip(_) => false,
        };
        assert!(!tells || named.contains(&shape.name), "{} is missing in docs/injection.md", shape.name);
    }
}
