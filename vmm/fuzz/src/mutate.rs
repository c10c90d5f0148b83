//! Changes to cases, as LibAFL's mutators: whole operations, and arguments of one.

use std::borrow::Cow;
use std::rc::Rc;

use harness::model::Operation;
use libafl::Error;
use libafl::corpus::{Corpus, CorpusId};
use libafl::mutators::{HavocScheduledMutator, MutationResult, Mutator};
use libafl::state::{HasCorpus, HasRand};
use libafl_bolts::Named;
use libafl_bolts::rands::Rand;
use libafl_bolts::tuples::{tuple_list, tuple_list_type};

use crate::case::{Case, MOST_OPERATIONS};
use crate::dice::Dice;
use crate::generate;
use crate::tweak::tweak;
use crate::world::{Rehearsal, World};

/// Mutations of one step are at most 2 to this power.
const MOST_STACKED_POW: usize = 2;

/// How a case is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// An operation more, somewhere.
    Insert,
    /// Some operations more, at the end.
    Append,
    /// Another operation in the place of one.
    Replace,
    /// Some operations less.
    Delete,
    /// Two operations change places.
    Swap,
    /// An operation once more.
    Repeat,
    /// The end of another case.
    Splice,
    /// Another argument of an operation.
    Tweak,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Append => "append",
            Self::Replace => "replace",
            Self::Delete => "delete",
            Self::Swap => "swap",
            Self::Repeat => "repeat",
            Self::Splice => "splice",
            Self::Tweak => "tweak",
        }
    }
}

/// A mutator.
pub(crate) struct Change {
    way: Way,
    name: Cow<'static, str>,
    world: Rc<World>,
}

type Pair = tuple_list_type!(
    Change, Change, Change, Change, Change, Change, Change, Change, Change
);

/// All of them, one or a few at a time.
pub(crate) fn all(world: &Rc<World>) -> HavocScheduledMutator<Pair> {
    let change = |way: Way| Change {
        way,
        name: Cow::Borrowed(way.name()),
        world: Rc::clone(world),
    };
    HavocScheduledMutator::with_max_stack_pow(
        tuple_list!(
            change(Way::Insert),
            change(Way::Append),
            change(Way::Replace),
            change(Way::Delete),
            change(Way::Swap),
            change(Way::Repeat),
            change(Way::Splice),
            change(Way::Tweak),
            change(Way::Tweak),
        ),
        MOST_STACKED_POW,
    )
}

impl Named for Change {
    fn name(&self) -> &Cow<'static, str> {
        &self.name
    }
}

impl<S: HasRand + HasCorpus<Case>> Mutator<Case, S> for Change {
    fn mutate(&mut self, state: &mut S, input: &mut Case) -> Result<MutationResult, Error> {
        let other = match self.way {
            Way::Splice => another(state)?,
            _ => Case::default(),
        };
        let mut changed = input.clone();
        let dice = &mut Dice(state.rand_mut());
        self.change(&mut changed.operations, &other.operations, dice);
        let changed = self.world.sense(&changed);
        if changed == *input || changed.operations.is_empty() {
            return Ok(MutationResult::Skipped);
        }
        *input = changed;
        Ok(MutationResult::Mutated)
    }

    fn post_exec(&mut self, _state: &mut S, _new: Option<CorpusId>) -> Result<(), Error> {
        Ok(())
    }
}

/// Any case of the corpus.
fn another<S: HasRand + HasCorpus<Case>>(state: &mut S) -> Result<Case, Error> {
    let count = state.corpus().count();
    if count == 0 {
        return Ok(Case::default());
    }
    let nth = state.rand_mut().below_or_zero(count);
    let id = state.corpus().nth(nth);
    state.corpus().cloned_input_for_id(id)
}

impl Change {
    fn change<R: Rand>(
        &self,
        operations: &mut Vec<Operation>,
        other: &[Operation],
        dice: &mut Dice<'_, R>,
    ) {
        let at = dice.index(operations.len());
        let len = operations.len();
        match self.way {
            Way::Insert => {
                let at = dice.index(len + 1);
                let new = self.new_at(&operations[..at], dice);
                operations.splice(at..at, new);
            }
            Way::Append => {
                for _ in 0..=dice.index(3) {
                    let new = self.new_at(operations, dice);
                    operations.extend(new);
                }
            }
            Way::Replace if at < len => {
                if let Some(new) = self.new_at(&operations[..at], dice) {
                    operations[at] = new;
                }
            }
            Way::Delete => {
                let end = (at + 1 + dice.index(2)).min(len);
                operations.drain(at..end);
            }
            Way::Swap if at < len => operations.swap(at, dice.index(len)),
            Way::Repeat if at < len => {
                let again = operations[at].clone();
                operations.insert(dice.index(len + 1), again);
            }
            Way::Splice => {
                let from = dice.index(other.len());
                operations.truncate(dice.index(len + 1));
                operations.extend_from_slice(&other[from..]);
                operations.truncate(2 * MOST_OPERATIONS);
            }
            Way::Tweak if at < len => tweak(&mut operations[at], &self.world, dice),
            Way::Replace | Way::Swap | Way::Repeat | Way::Tweak => {}
        }
    }

    fn new_at<R: Rand>(&self, before: &[Operation], dice: &mut Dice<'_, R>) -> Option<Operation> {
        let rehearsal = Rehearsal::after(&self.world, before);
        // Some falls of the dice mean nothing here.
        (0..4).find_map(|_| generate::operation(&rehearsal, dice))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use addr::Gpa;
    use harness::model::Call;
    use harness::own_driver;
    use libafl::corpus::InMemoryCorpus;
    use libafl::state::StdState;
    use libafl_bolts::rands::StdRand;
    use witness::{Plan, WindowPlan};

    use super::*;
    use crate::verdict::kind;

    fn world() -> Rc<World> {
        let window = |name: &str, base, npages, read_only| WindowPlan {
            name: name.into(),
            base: Gpa::new(base),
            npages,
            read_only,
        };
        let plan = Plan {
            windows: vec![
                window("odd", 0xd100_0000, 13, false),
                window("readonly", 0xd200_0000, 5, true),
            ],
            buffers: Vec::new(),
        };
        Rc::new(World {
            files: own_driver::files(&plan),
            plan,
            revocable: vec![0, 1],
        })
    }

    /// Cases that come one from the other, from this seed on.
    fn chain(world: &Rc<World>, seed: u64, len: usize) -> Vec<Case> {
        let mut state = StdState::new(
            StdRand::with_seed(seed),
            InMemoryCorpus::<Case>::new(),
            InMemoryCorpus::<Case>::new(),
            &mut (),
            &mut (),
        )
        .expect("a state");
        let mut mutator = all(world);
        let mut case = generate::case(world, state.rand_mut());
        let mut cases = Vec::new();
        for _ in 0..len {
            mutator.mutate(&mut state, &mut case).expect("changed");
            cases.push(case.clone());
        }
        cases
    }

    #[test]
    fn every_case_means_something_and_is_short() {
        let world = world();
        let mut kinds = BTreeSet::new();
        for case in (0..96).flat_map(|seed| chain(&world, seed, 80)) {
            assert_eq!(world.sense(&case), case);
            assert!(case.operations.len() <= MOST_OPERATIONS);
            kinds.extend(case.operations.iter().map(kind));
        }
        // Every kind that there is.
        assert_eq!(kinds.len(), 22, "{kinds:?}");
    }

    #[test]
    fn a_seed_says_it_all() {
        let world = world();
        assert_eq!(chain(&world, 3, 40), chain(&world, 3, 40));
        assert_ne!(chain(&world, 3, 40), chain(&world, 4, 40));
    }

    #[test]
    fn a_driver_without_revocation_is_not_told_to_revoke() {
        let mut world = world().as_ref().clone();
        world.revocable.clear();
        let world = Rc::new(world);
        for case in (0..4).flat_map(|seed| chain(&world, seed, 40)) {
            let revokes = |operation: &Operation| {
                matches!(operation.call, Call::Revoke { .. } | Call::Restore { .. })
            };
            assert!(!case.operations.iter().any(revokes));
        }
    }
}
