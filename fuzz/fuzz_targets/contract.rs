//! Contract files: what is accepted leaves no answer open.
#![no_main]

use contract::{Answer, Contract};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(contract) = Contract::from_toml("contract.toml", text) else {
        return;
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
