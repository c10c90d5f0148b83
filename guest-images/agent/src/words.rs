//! Loads and stores of aligned words through whatever is mapped.

use wire::{MAX_WORDS, Value};

use crate::access;
use crate::outcome::{Outcome, Refusal};
use crate::own::Own;

const WORD_LEN_BYTES: u64 = 8;

/// Aligned 64-bit loads, in order, up to the first fault.
pub fn load(address: u64, stride_bytes: u64, count: u32) -> Outcome {
    let words = addresses(address, stride_bytes, u64::from(count))?
        .map(access::load)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Value::Words(words))
}

/// Aligned 64-bit stores, in order, up to the first fault.
pub fn store(own: &Own, address: u64, stride_bytes: u64, words: &[u64]) -> Outcome {
    // A usize has 64 bits here.
    let addresses = addresses(address, stride_bytes, words.len() as u64)?;
    if let Some(address) = addresses.clone().find(|address| own.holds_word(*address)) {
        return Err(Refusal::Rejected(format!(
            "the word at {address:#x} belongs to the agent itself"
        )));
    }
    for (address, word) in addresses.zip(words) {
        // SAFETY: no address of this store lies in the agent's own memory.
        unsafe { access::store(address, *word) }?;
    }
    Ok(Value::Unit)
}

/// The addresses of `count` words, all aligned and none past the end of the space.
fn addresses(
    address: u64,
    stride_bytes: u64,
    count: u64,
) -> Result<impl Iterator<Item = u64> + Clone, Refusal> {
    let reject = |reason| Err(Refusal::Rejected(reason));
    if count > u64::from(MAX_WORDS) {
        return reject(format!(
            "{count} words; at most {MAX_WORDS} go into one request"
        ));
    }
    if !address.is_multiple_of(WORD_LEN_BYTES) || !stride_bytes.is_multiple_of(WORD_LEN_BYTES) {
        return reject(format!(
            "address {address:#x} and stride {stride_bytes:#x} must be multiples of \
             {WORD_LEN_BYTES}"
        ));
    }
    let last = count
        .saturating_sub(1)
        .checked_mul(stride_bytes)
        .and_then(|len_bytes| address.checked_add(len_bytes));
    if last.is_none() {
        return reject(format!(
            "{count} words from {address:#x}, {stride_bytes:#x} apart, wrap past the end of \
             the address space"
        ));
    }
    Ok((0..count).map(move |index| address + index * stride_bytes))
}

#[cfg(test)]
#[path = "words_tests.rs"]
mod tests;
