//! Policies that nobody thought of: made at random from the CRD, judged by the API server and by `resolve`.

use super::policies::Policies;
use super::support::ApiServer;
use poolkeeper::api::v1alpha1::DbPoolPolicy;
use poolkeeper::api::{resolve, schema};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};

/// Durations that have gone wrong somewhere, and some that have not; as the others between bars.
const DURATIONS: &str = "0|0s|00s|0h0m0s|-1s|+1s|1|1s|999ms|0.999s|1.000s|1.0001s|.5s|1.s|1.5h|1h1h|8760h|8760h1ms|596h|600s|10m|10ms|1d|1us|999999999999999h|2562048h|1H| 1s";

/// What may or may not be an address.
const ADDRESSES: &str = "::|::ffff:127.0.0.1|::ffff:7f00:1|::FFFF:1.2.3.4|::1.2.3.4|0:0:0:0:0:0:0:1|1::2::3|[::1]|fe80::1%eth0|127.0.0.01|127.1|1.2.3|1.2.3.4/8|256.1.1.1|0x7f.0.0.1|00000::1";

/// Texts for every other field.
const TEXTS: &str =
    "|x|X|a.b|a-|-a|a..b|a_b|a b|a\tb|a\nb|a\u{a0}b|a,b|ä|日本|/|/run|/run/|/a,b|run|..|0%|100%|007%|50 %";

struct Maker {
    random: StdRng,
}

impl Maker {
    fn one_in(&mut self, n: u32) -> bool {
        self.random.random_range(0..n) == 0
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of.choose(&mut self.random).unwrap().clone()
    }

    /// One of several between bars.
    fn word(&mut self, of: &'static str) -> &'static str {
        self.pick(&of.split('|').collect::<Vec<_>>())
    }

    /// A value for a field: mostly right, often at an edge, sometimes of another type.
    fn value(&mut self, schema: &Value) -> Value {
        if self.one_in(60) {
            return self.pick(&[json!(null), json!(true), json!(7), json!(1.5), json!("x"), json!([]), json!({})]);
        }
        match schema["type"].as_str().unwrap() {
            "boolean" => self.random.random::<bool>().into(),
            "integer" => self.number(schema),
            "string" => self.text(schema).into(),
            "array" => {
                let most = schema["maxItems"].as_u64().unwrap();
                let items = if self.one_in(20) {
                    most + self.random.random_range(0..2)
                } else {
                    self.random.random_range(0..3)
                };
                (0..items).map(|_| self.value(&schema["items"])).collect()
            }
            _ if schema["additionalProperties"].is_object() => {
                let key = self.pick(&["app", "", "a/b", "x y"]).to_owned();
                let key = if self.one_in(20) { "k".repeat(316 + self.random.random_range(0..3)) } else { key };
                json!({ key: self.value(&schema["additionalProperties"]) })
            }
            _ => self.object(schema),
        }
    }

    fn object(&mut self, schema: &Value) -> Value {
        let mut made = Map::new();
        for (name, inner) in schema["properties"].as_object().unwrap() {
            let required = schema["required"].as_array().is_some_and(|all| all.contains(&name.as_str().into()));
            if if required { !self.one_in(80) } else { self.one_in(3) } {
                made.insert(name.clone(), self.value(inner));
            }
        }
        made.into()
    }

    fn number(&mut self, schema: &Value) -> Value {
        let (least, most) = (schema["minimum"].as_i64().unwrap(), schema["maximum"].as_i64().unwrap());
        match self.random.random_range(0..30) {
            0 => (least - 1).into(),
            1 => (most + 1).into(),
            2 => self.pick(&[json!(5.5), json!(4_294_967_296_i64), json!(u64::MAX), json!(1e300)]),
            3..6 => least.into(),
            6..9 => most.into(),
            _ => self.pick(&[least, 1, 5, 6, 20, 21, 50, 51, 6432]).clamp(least, most).into(),
        }
    }

    fn text(&mut self, schema: &Value) -> String {
        if let Some(words) = schema["enum"].as_array() {
            let word = self.pick(words).as_str().unwrap().to_owned();
            return if self.one_in(60) { word.to_lowercase() } else { word };
        }
        let pattern = schema["pattern"].as_str().unwrap_or_default();
        if pattern.contains("ms") {
            return if self.one_in(6) { self.word(DURATIONS) } else { self.pick(&["1s", "2s", "5s", "90s", "1m30s"]) }
                .to_owned();
        }
        if self.one_in(30) {
            let most = usize::try_from(schema["maxLength"].as_u64().unwrap()).unwrap();
            return self.pick(&["x", "ä", "/"]).repeat(most + self.random.random_range(0..2));
        }
        let right: &[&str] = match pattern {
            _ if pattern.contains('%') => &["0%", "7%", "50%", "100%"],
            _ if pattern.starts_with("^(/[^,]") => &["db.shop.svc", "10.0.0.1", "/run/postgresql", "::1"],
            _ if pattern.starts_with("^(/") => &["", "/run/x"],
            "" if schema["maxLength"] == 45 && self.one_in(4) => return self.word(ADDRESSES).to_owned(),
            "" if schema["maxLength"] == 45 => &["127.0.0.1", "0.0.0.0", "::1", "127.9.9.9"],
            _ => &["orders", "a.b-c"],
        };
        if self.one_in(12) { self.word(TEXTS) } else { self.pick(right) }.to_owned()
    }
}

/// The policy in our types, if they keep all of it: serde reads `[]` where a mapping should be as an empty one.
fn typed(policy: &Value) -> Option<DbPoolPolicy> {
    let typed: DbPoolPolicy = serde_json::from_value(policy.clone()).ok()?;
    let lists = |value: &Value| value.to_string().matches('[').count();
    (lists(&serde_json::to_value(&typed).unwrap()) == lists(policy)).then_some(typed)
}

#[tokio::test]
async fn the_api_server_and_resolve_judge_random_policies_alike() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (count, seed) = (number("POLICIES", 1500), number("SEED", 20_261_123));
    let server = ApiServer::shared();
    let namespace = server.namespace().await;
    let policies = Policies::new(server, &namespace).await;
    let schema = &schema::document()["properties"]["spec"];
    let mut maker = Maker { random: StdRng::seed_from_u64(seed) };
    let (mut taken, mut different) = (0, Vec::new());
    for _ in 0..count {
        let policy = json!({
            "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "DbPoolPolicy", "metadata": { "name": "a" },
            "spec": maker.object(schema)
        });
        let here = resolve::resolve_value(policy.clone());
        match (policies.create(&policy, true).await, here) {
            (Ok(stored), Ok(here)) => {
                taken += 1;
                let typed: DbPoolPolicy = serde_json::from_value(stored.clone()).unwrap();
                let there = resolve::resolve(&typed).unwrap();
                if (&here.revision, &here.effective) != (&there.revision, &there.effective) {
                    different.push(format!("stored as {stored}: {policy}"));
                }
            }
            (Err(causes), Err(problems)) => {
                // Whoever has it in our types, as an operator that met it, refuses it as well.
                if typed(&policy).is_some_and(|typed| resolve::resolve(&typed).is_ok()) {
                    different.push(format!("taken in our types: {policy}"));
                }
                // Neither looks into what it has refused, but what it refuses first differs.
                let common = |(path, _): &(String, String)| problems.iter().any(|problem| problem.path == *path);
                if !causes.iter().any(common) {
                    different.push(format!("refused for {causes:?} there, for {problems:?} here: {policy}"));
                }
            }
            (Ok(_), Err(problems)) => different.push(format!("only resolve refuses it, {problems:?}: {policy}")),
            (Err(causes), Ok(_)) => different.push(format!("only the API server refuses it, {causes:?}: {policy}")),
        }
    }
    println!("{count} random policies, {taken} of them taken");
    assert!(different.is_empty(), "SEED={seed}, {} of {count}:\n{}", different.len(), different.join("\n"));
    assert!(taken > count / 10 && taken < count * 9 / 10, "{taken} of {count} taken: too few of one kind");
}
