//! Contract files: what is accepted leaves no answer open, and what is said of the rest
//! leaves the terminal alone.
#![no_main]

use contract::{Answer, Contract};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let contract = match Contract::from_toml("contract.toml", text) {
        Ok(contract) => contract,
        Err(problems) => {
            let said = problems.to_string();
            let steers = |it: char| it.is_control() && it != '\n' && it != '\t';
            assert!(!said.contains(steers), "{said:?}");
            return;
        }
    };
    for file in &contract.files {
        for named in file.requests() {
            let answer = file.predict(&named.request);
            assert!(
                !matches!(answer, Answer::Undetermined(_)),
                "{}: {}: {answer:?}",
                file.name,
                named.name
            );
        }
    }
});
