//! Several cores, each with a guest of its own, and several machines.
//!
//! LibAFL's launcher forks and lets each client restart itself from shared memory. A process
//! that has VMs, their vCPU threads and descriptors of KVM cannot be forked, and state that
//! is whole on disk need not be handed on to a child. So its parts are put together by hand:
//! its broker on a thread, and an event manager for each core on a thread that starts a
//! guest. Brokers of several machines are joined as LibAFL's own are.
//!
//! ```text
//! core 0 --+                            +-- core 0
//! core 1 --+-- broker ----- TCP ----- broker --+-- core 1
//! ```

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use libafl::Error;
use libafl::events::llmp::{LlmpEventManager, LlmpEventManagerBuilder};
use libafl::events::{EventConfig, SendExiting, StdLlmpEventHook};
use libafl_bolts::llmp::{Listener, LlmpBroker, LlmpClient, LlmpHookTuple};
use libafl_bolts::shmem::{ShMemProvider, StdShMem, StdShMemProvider};
use libafl_bolts::tuples::tuple_list;

use crate::case::Case;
use crate::engine::{Begun, Core, Options, State, monitor, work};
use crate::error::FuzzError;
use crate::finding::About;
use crate::outcome::{Outcome, Part};
use crate::subject::Subject;

/// How long the broker rests when nobody has sent anything.
const REST: Duration = Duration::from_millis(5);
/// How long a core that is done waits for the broker to have read what it sent.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How long a broker that is not there yet is waited for.
const JOINING: Duration = Duration::from_secs(30);

/// Why a guest did not come up.
pub type LoadError = Box<dyn std::error::Error + Send + Sync>;

/// Other machines.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peers {
    /// Where others may join, by TCP. Whoever can reach it can send cases. The cores of this
    /// machine come in by it, too, so that it is on loopback, or on all addresses.
    pub broker: Option<SocketAddr>,
    /// The broker of a run on another machine.
    pub join: Option<SocketAddr>,
}

/// Fuzzes a driver on several cores. What is in the folder already is gone on with. `load`
/// starts a guest, and is called once on each core.
///
/// # Errors
/// [`FuzzError`] for what is not the driver's doing. The first core that fails ends all.
pub fn fuzz_on(
    cores: NonZeroUsize,
    peers: Peers,
    load: &(impl Fn() -> Result<(Subject, About), LoadError> + Sync),
    options: &Options,
) -> Result<(Outcome, About), FuzzError> {
    let begun = Begun::of(&options.dir)?;
    let is_over = AtomicBool::new(false);
    let (sender, receiver) = sync_channel(1);
    let parts = thread::scope(|scope| {
        let broker = scope.spawn(|| {
            let served = serve(peers, options.tells, sender, &is_over);
            // Nobody goes on alone.
            begun.shared.end();
            served
        });
        let Ok(port) = receiver.recv() else {
            return Err(ended(broker.join()));
        };
        let on = |index| {
            let core = Core {
                index,
                count: cores.get(),
                has_peers: true,
            };
            let (begun, is_over) = (&begun, &is_over);
            scope.spawn(move || {
                let part = on_core(core, port, load, options, begun, is_over);
                // One that cannot go on ends the others.
                if part.is_err() {
                    begun.shared.end();
                }
                part
            })
        };
        let threads: Vec<_> = (0..cores.get()).map(on).collect();
        let joined = threads.into_iter().enumerate().map(|(core, thread)| {
            let part = thread.join();
            part.unwrap_or(Err(FuzzError::Panicked { core }))
        });
        // All of them: the broker is there until the last one has gone.
        let parts: Vec<_> = joined.collect();
        let was_over = is_over.swap(true, Ordering::Relaxed);
        let served = broker.join();
        if was_over {
            return Err(ended(served));
        }
        parts.into_iter().collect::<Result<Vec<_>, _>>()
    })?;
    let (parts, abouts): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
    let about = abouts.into_iter().next().unwrap_or_default();
    Ok((Outcome::of(begun.shared, parts)?, about))
}

/// Why there is no broker any more.
fn ended(served: thread::Result<Result<(), Error>>) -> FuzzError {
    FuzzError::Broker(match served {
        Ok(Err(error)) => error.to_string(),
        Ok(Ok(())) => "it went away".to_owned(),
        Err(_) => "it panicked".to_owned(),
    })
}

/// Hands on what cores and other machines send, until it is over, and tells how far they have
/// come. Says at which port of this machine it takes cores in.
fn serve(
    peers: Peers,
    tells: bool,
    ready: SyncSender<u16>,
    is_over: &AtomicBool,
) -> Result<(), Error> {
    let served = || {
        let hook = StdLlmpEventHook::<Case, _>::new(monitor(tells))?;
        let provider = StdShMemProvider::new()?;
        let mut broker = LlmpBroker::new(provider, tuple_list!(hook))?;
        // A listener numbers those whom it takes in from its own number on: whoever comes by
        // another way must have come before, or two have one number, and do not hear each other.
        if let Some(addr) = peers.join {
            join(&mut broker, addr)?;
        }
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(peers.broker.unwrap_or(any))?;
        let port = listener.local_addr()?.port();
        broker
            .inner_mut()
            .launch_listener(Listener::Tcp(listener))?;
        // Nobody listens if all has ended meanwhile.
        let _ = ready.send(port);
        while !is_over.load(Ordering::Relaxed) {
            if !broker.broker_once()? {
                thread::sleep(REST);
            }
        }
        Ok(())
    };
    let served = served();
    if served.is_err() {
        is_over.store(true, Ordering::Relaxed);
    }
    served
}

/// Joins another machine's run, which may be about to start.
fn join<H>(
    broker: &mut LlmpBroker<H, StdShMem, StdShMemProvider>,
    addr: SocketAddr,
) -> Result<(), Error>
where
    H: LlmpHookTuple<StdShMem, StdShMemProvider>,
{
    let start = Instant::now();
    loop {
        match broker.inner_mut().connect_b2b(addr) {
            Err(_) if start.elapsed() < JOINING => thread::sleep(JOINING / 60),
            Err(error) => {
                let told = format!("the broker at {addr} cannot be joined: {error}");
                return Err(Error::unknown(told));
            }
            Ok(()) => return Ok(()),
        }
    }
}

type Manager = LlmpEventManager<(), Case, State, StdShMem, StdShMemProvider>;

fn on_core(
    core: Core,
    port: u16,
    load: &impl Fn() -> Result<(Subject, About), LoadError>,
    options: &Options,
    begun: &Begun,
    is_over: &AtomicBool,
) -> Result<(Part, About), FuzzError> {
    let (mut subject, about) = load().map_err(|source| FuzzError::Load {
        core: core.index,
        source,
    })?;
    let broker = |error: Error| FuzzError::Broker(error.to_string());
    let provider = StdShMemProvider::new().map_err(broker)?;
    let client = LlmpClient::create_attach_to_tcp(provider, port).map_err(broker)?;
    // Every case is gone through again by whoever gets it: nobody takes another one's word.
    let manager =
        LlmpEventManagerBuilder::new().build_from_client(client, EventConfig::AlwaysUnique);
    let mut manager: Manager = manager.map_err(broker)?;
    let part = work(&mut subject, &about, options, begun, core, &mut manager)?;
    manager.send_exiting().map_err(broker)?;
    // The pages that it sent go with it.
    let start = Instant::now();
    while !manager.llmp.safe_to_unmap()
        && start.elapsed() < LAST_WORDS
        && !is_over.load(Ordering::Relaxed)
    {
        thread::sleep(REST);
    }
    Ok((part, about))
}
