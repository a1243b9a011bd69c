//! A policy that changes while it serves: nobody notices.

use crate::support::wire::Client;
use crate::support::{Bed, Load, Policy, Sidecar, bed, eventually, fe};
use std::time::Duration;

#[test]
fn two_hundred_changes_under_load_fail_no_query() {
    let mut bed = Bed::sized(8);
    if bed::is_direct() {
        return;
    }
    bed.setup(Load::TABLE);
    let load = Load::start(&bed.connect(), 64);
    load.advance(200);
    let sidecar = bed.sidecar_mut().unwrap();
    for n in 0..200u32 {
        sidecar.apply(|policy| match n % 10 {
            0 => policy.set("pool.size", 2).set("pool.maxOverflow", 0),
            1 => policy.set("pool.size", 20).set("pool.maxOverflow", 10),
            2 => policy.set("pool.order", if n % 20 == 2 { "Lifo" } else { "Fifo" }),
            3 => policy.set("pool.recycle", "1s"),
            4 => policy.set("pool.size", 5).set("pool.maxOverflow", -1),
            5 => policy.set("timeouts.statement", format!("{}s", 20 + n)),
            6 => policy.set("pool.prePing", n % 20 == 6).set("pool.minIdle", 2),
            7 => policy.set("pool.size", 3).set("pool.maxOverflow", 2),
            8 => policy.set("pool.preparedStatements", 1 + n % 7).set("pool.recycle", "0s"),
            _ => policy.set("pool.size", 6).set("pool.maxOverflow", 0).set("timeouts.acquire", format!("{}s", 30 + n)),
        });
        if n % 20 == 0 {
            load.advance(20);
        }
    }
    load.advance(200);
    load.stop_without_errors();
    assert_eq!(bed.sidecar().unwrap().metric("poolkeeper_reloads_total{result=\"rejected\"}"), 0.0);
    eventually("the pool has shrunk to its size", || bed.backends().len() <= 6);
}

#[test]
fn growing_serves_waiters_and_shrinking_closes_idle_ones_at_once() {
    let mut bed = Bed::sized(1);
    if bed::is_direct() {
        return;
    }
    let mut clients: Vec<_> = (0..4).map(|_| bed.client()).collect();
    clients[0].rows("BEGIN");
    for client in &mut clients[1..] {
        client.send(&[fe::query("BEGIN")]);
        client.expect_silence(Duration::from_millis(50));
    }
    bed.sidecar_mut().unwrap().apply(|policy| policy.set("pool.size", 4));
    clients[1..].iter_mut().for_each(|client| drop(client.expect("C:BEGIN Z:T")));
    for client in &mut clients[2..] {
        client.rows("COMMIT");
    }
    assert_eq!(bed.backends().len(), 4);
    // Two idle go at once, two busy ones when they come back.
    bed.sidecar_mut().unwrap().apply(|policy| policy.set("pool.size", 1));
    eventually("the idle ones are closed", || bed.backends().len() == 2);
    assert_eq!(clients[0].value("SELECT 1"), "1");
    clients[0].rows("COMMIT");
    eventually("one is left", || bed.backends().len() == 1);
    clients[1].rows("COMMIT");
    clients.iter_mut().for_each(crate::support::Client::works);
    assert_eq!(bed.backends().len(), 1);
}

#[test]
fn the_shrink_deadline_ends_idle_transactions() {
    let mut bed =
        Bed::with(|policy| policy.set("pool.size", 3).set("pool.maxOverflow", 0).set("timeouts.shrink", "1s"));
    if bed::is_direct() {
        return;
    }
    let mut clients: Vec<_> = (0..3).map(|_| bed.client()).collect();
    clients.iter_mut().for_each(|client| drop(client.rows("BEGIN")));
    clients[0].send(&[fe::query("SELECT pg_sleep(3)")]);
    bed.sidecar_mut().unwrap().apply(|policy| policy.set("pool.size", 1));
    // Two that do nothing are told; the one that works finishes.
    for client in &mut clients[1..] {
        client.expect_end(Some("57P01"));
    }
    clients[0].expect("T D C Z:T");
    clients[0].rows("COMMIT");
    clients[0].works();
    assert_eq!(bed.backends().len(), 1);
}

/// A plain save, an atomic rename, and the symlink swap of a mounted ConfigMap.
#[test]
fn every_way_of_saving_is_seen() {
    let bed = Bed::sized(2);
    let Some(sidecar) = bed.sidecar() else { return };
    let text = |size: u32| sidecar.policy.clone().set("pool.size", size).yaml();
    let size = |size: u32| eventually("the new size", || sidecar.health()["size"] == size);
    std::fs::write(sidecar.policy_file(), text(3)).unwrap();
    size(3);
    sidecar.save(&text(4));
    size(4);
    // As the kubelet does it: a folder per version, ..data points at it, files point through ..data.
    let folder = sidecar.policy_file().parent().unwrap().to_owned();
    let version = |n: u32| {
        let dir = folder.join(format!("..v{n}"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("policy.yaml"), text(n)).unwrap();
        std::os::unix::fs::symlink(format!("..v{n}"), folder.join("..data_tmp")).unwrap();
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    };
    version(5);
    std::fs::remove_file(sidecar.policy_file()).unwrap();
    std::os::unix::fs::symlink("..data/policy.yaml", sidecar.policy_file()).unwrap();
    size(5);
    version(6);
    size(6);
    version(7);
    size(7);
    sidecar.client().works();
}

/// Clients that take turns cost no servers while a change replaces them: other settings of a session, another target.
#[test]
fn a_change_replaces_servers_once() {
    let mut bed = Bed::sized(2);
    let Some(sidecar) = bed.sidecar_mut() else { return };
    sidecar.settle();
    let changes: [fn(Policy) -> Policy; 2] =
        [|policy| policy.set("timeouts.statement", "17s"), |policy| policy.set("database.host", "localhost")];
    for (n, change) in changes.into_iter().enumerate() {
        let opened = |sidecar: &Sidecar| sidecar.metric("poolkeeper_server_connections_opened_total");
        let before = opened(sidecar);
        sidecar.apply(change);
        let mut clients = [sidecar.client(), sidecar.client(), sidecar.client()];
        eventually("all are new, and known", || {
            clients.iter_mut().for_each(Client::works);
            opened(sidecar) >= before + 2.0 && sidecar.metric("poolkeeper_catalog_quiet") == 1.0
        });
        // While another target's catalog is read, a change of client costs a server.
        let (known, most) = (opened(sidecar), [2.0, 40.0][n]);
        assert!(known - before <= most, "change {n}: {} servers", known - before);
        for _ in 0..20 {
            clients.iter_mut().for_each(Client::works);
        }
        // Those that were lent before the reading may be closed once more.
        let more = opened(sidecar) - known;
        assert!(more <= [0.0, 2.0][n], "change {n}: {more} servers more");
    }
}
