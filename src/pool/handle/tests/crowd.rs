//! Many clients at once, and several runtimes.

use super::*;

#[test]
fn a_lease_dropped_outside_of_any_runtime_is_closed_by_the_keeper() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let b = runtime.block_on(async { Bench::new(settings(1)) });
    let lease = runtime.block_on(b.lend());
    drop(lease);
    assert_eq!(b.pool.stats().closing, 1);
    runtime.block_on(b.nothing_leaked(1));
    assert_eq!(b.fake.reasons(), [CloseReason::Abandoned]);
}

#[test]
fn clients_of_several_runtimes_share_a_pool() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let b = runtime.block_on(async { Bench::new(settings(3)) });
    let inside = Arc::new(AtomicU32::new(0));
    let (over, done) = tokio::sync::oneshot::channel::<()>();
    let keeper = std::thread::spawn(move || drop(runtime.block_on(done)));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (pool, inside) = (b.pool.clone(), inside.clone());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                let work = async {
                    for n in 0..2000 {
                        let lease = pool.checkout('a', clock()).await.unwrap();
                        assert!(inside.fetch_add(1, SeqCst) < 3);
                        if n % 7 == 0 {
                            tokio::task::yield_now().await;
                        }
                        inside.fetch_sub(1, SeqCst);
                        match n % 50 {
                            0 => lease.discard(CloseReason::Protocol),
                            1 => drop(lease),
                            _ => lease.give_back(clock()),
                        }
                    }
                };
                // Several runtimes have no clock that could be held still for all of them.
                runtime.block_on(async { timeout(Duration::from_secs(60), work).await }).unwrap();
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let _ = over.send(());
    keeper.join().unwrap();
    assert!(b.fake.most_open.load(SeqCst) <= 3);
    assert_eq!(b.pool.stats().in_use, 0);
}

/// A reproducible source of numbers below a bound (xorshift64, Marsaglia 2003).
struct Luck(u64);

impl Luck {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

async fn pause(luck: &mut Luck, most: u64) {
    tokio::time::sleep(Duration::from_millis(luck.below(most))).await;
}

/// A client that comes and goes: it asks, may lose patience, holds for a while, gives back in one way or another.
async fn client(pool: Pool<Fake>, mut luck: Luck) {
    for _ in 0..60 {
        pause(&mut luck, 40).await;
        let key = char::from(b'a' + u8::try_from(luck.below(3)).unwrap());
        let ask: Option<Checkout<Fake>> =
            if luck.below(20) == 0 { pool.probe(key) } else { Some(pool.checkout(key, clock())) };
        let patience = Duration::from_millis(luck.below(200));
        let Some(Ok(Ok(mut lease))) = (match ask {
            Some(ask) => Some(timeout(patience, ask).await),
            None => None,
        }) else {
            continue;
        };
        tokio::select! {
            () = pause(&mut luck, 30) => {}
            () = poll_fn(|cx| lease.split().1.poll(cx)) => drop(lease.split().1.claim()),
        }
        match luck.below(12) {
            0 => drop(lease),
            1 => lease.discard(CloseReason::ResetFailed),
            2 => lease.disconnected(),
            _ => lease.give_back(clock()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_comes_and_goes_while_everything_changes() {
    for seed in 1..=12 {
        let mut luck = Luck(seed * 0x9E37_79B9);
        let b = Bench::new(pinging(4));
        b.fake.slow.store(25, SeqCst);
        let crowd: Vec<_> =
            (0..24).map(|n| tokio::spawn(client(b.pool.clone(), Luck((seed << 32) | (n + 1))))).collect();
        let mut most = 4;
        while !crowd.iter().all(tokio::task::JoinHandle::is_finished) {
            pause(&mut luck, 60).await;
            let size = u32::try_from(1 + luck.below(6)).unwrap();
            most = most.max(size);
            let changed = Settings {
                pre_ping: luck.below(2) == 0,
                order: if luck.below(2) == 0 { Order::Lifo } else { Order::Fifo },
                recycle: Some(Duration::from_millis(20 + luck.below(500))),
                idle_timeout: Some(Duration::from_millis(10 + luck.below(500))),
                min_idle: u32::try_from(luck.below(u64::from(size) + 1)).unwrap(),
                shrink: Some(Duration::from_millis(luck.below(100))),
                ..pinging(size)
            };
            let replace = [Replace::Keep, Replace::Keep, Replace::Now, Replace::Within(Duration::from_millis(50))];
            let replace = replace[luck.below(4) as usize];
            b.pool.reconfigure(Config::new(changed).unwrap(), replace);
            b.fake.refuse.store(luck.below(6) == 0, SeqCst);
            *b.fake.ping.lock().unwrap() = [Ok(()), Ok(()), Err(PingError::Disconnected), Err(PingError::Other("odd"))]
                [luck.below(4) as usize]
                .clone();
        }
        for client in crowd {
            client.await.unwrap();
        }
        b.fake.refuse.store(false, SeqCst);
        *b.fake.ping.lock().unwrap() = Ok(());
        assert!(b.fake.most_open.load(SeqCst) <= most);
        b.set(settings(3));
        b.fake.slow.store(0, SeqCst);
        b.nothing_leaked(3).await;
        let stats = b.pool.stats();
        assert_eq!(stats.opened, stats.closed_total() + u64::from(stats.idle));
        b.pool.close().await;
        assert_eq!((b.now(), b.fake.open.load(SeqCst)), ([0; 5], 0), "seed {seed}");
    }
}
