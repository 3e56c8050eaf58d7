//! `llmbs serve` as its clients meet it: the real program on a port of its own.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::program::{self, assert_same, fails, ids, run, tiny};

/// A folder with two runs of one shop and two models, `runs/a` and `runs/b`.
static SHOP: LazyLock<PathBuf> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("serve");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    fs::copy(tiny().path().join("llmbs.toml"), dir.join("llmbs.toml")).unwrap();
    let words = |text: &str| -> Vec<String> { text.split(' ').map(String::from).collect() };
    for command in [
        "--run runs/a index",
        "--run runs/a train --stage initial",
        "--run runs/a train --stage anneal",
        "--run runs/b index",
        "--run runs/b --set train.initial.epochs=1 train --stage initial",
    ] {
        let words = words(command);
        run(&dir, &words.iter().map(String::as_str).collect::<Vec<_>>(), 0);
    }
    dir
});

/// A service at work, ended with the test.
struct Service {
    child: Child,
    address: String,
    /// What it says after it listens.
    said: Mutex<mpsc::Receiver<String>>,
}

struct Response {
    status: u16,
    head: String,
    body: String,
}

impl Response {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

impl Service {
    fn start(run: &str) -> Self {
        Self::start_with(run, &[])
    }

    fn start_with(run: &str, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_llmbs"));
        command.current_dir(&*SHOP).args(["--run", run, "serve", "--addr", "127.0.0.1:0"]);
        command.args(more);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (say, said) = mpsc::channel();
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(say.send(line))));
        let listens = wait_for(&said, "listening on");
        let address = listens.split("http://").nth(1).unwrap().trim().to_string();
        Self { child, address, said: Mutex::new(said) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        // A test that would wait for ever fails instead.
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Sends `bytes` and reads the answer.
    fn send(&self, bytes: &[u8]) -> Response {
        let mut stream = self.connect();
        // Whoever sends too much may be cut off before all is sent.
        let _ = stream.write_all(bytes);
        receive(&mut stream)
    }

    fn get(&self, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
    }

    fn post(&self, body: &str) -> Response {
        self.send(&post(body))
    }

    /// What is recommended.
    fn recommend(&self, body: &Value) -> Value {
        let response = self.post(&body.to_string());
        assert_eq!(response.status, 200, "{body}: {}", response.body);
        response.json()
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} is not in {text}")).trim().parse().unwrap()
    }

    /// Waits until it says `text`; the whole line.
    fn says(&self, text: &str) -> String {
        wait_for(&self.said.lock().unwrap(), text)
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(crate::common::program::kill(signal, id).status().unwrap().success());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for(said: &mpsc::Receiver<String>, text: &str) -> String {
    let mut before = Vec::new();
    loop {
        match said.recv_timeout(Duration::from_secs(120)) {
            Ok(line) if line.contains(text) => return line,
            Ok(line) => before.push(line),
            Err(e) => panic!("{e}: it never said {text:?} but {before:?}"),
        }
    }
}

fn post(body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST /recommend HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Reads the one answer of a connection that is closed then.
fn receive(stream: &mut TcpStream) -> Response {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) =
        text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer but {text:?}: {read:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Response { status, head: head.to_lowercase(), body: body.to_string() }
}

#[test]
fn answers_are_those_of_the_command_line() {
    let service = Service::start("runs/a");
    let printed = |args: &str| -> Value {
        let args: Vec<&str> = args.split('|').collect();
        let args = [&["--run", "runs/a", "recommend", "--json"], &args[..]].concat();
        serde_json::from_str(&run(&SHOP, &args, 0).0).unwrap()
    };
    fs::write(SHOP.join("only.txt"), "7\nS00012\n41\n").unwrap();
    for (body, args) in [
        (json!({"user": 7}), "--user|7"),
        (json!({"user": "7", "top": 3, "explain": true}), "--user|7|--top|3|--explain"),
        (json!({"history": [1, "S00002"], "top": 60}), "--history|1,2|--top|60"),
        (
            json!({"history": [3, 14], "exclude_history": true, "top": 57}),
            "--history|3,14|--exclude-history|--top|57",
        ),
        (json!({"history": [3], "only": [41, "S00007", 12]}), "--history|3|--only|only.txt"),
        (json!({"text": "rose body wash"}), "--text|rose body wash"),
    ] {
        assert_same(&service.recommend(&body)["items"], &printed(args));
    }
    // What is left out makes room for others.
    let all = ids(&printed("--history|1|--top|60"));
    let answer =
        service.recommend(&json!({"history": [1], "exclude": [all[0], all[2]], "top": 58}));
    let others: Vec<u64> =
        all.iter().copied().filter(|id| ![all[0], all[2]].contains(id)).collect();
    assert_eq!(ids(&answer["items"]), others);
    let answer =
        service.recommend(&json!({"id": {"page": 4}, "top": 1, "history": [1, "none", 99]}));
    assert_eq!((&answer["id"], &answer["top"]), (&json!({"page": 4}), &json!(1)));
    assert_eq!((&answer["unknown"], answer.get("history")), (&json!(["none", 99]), None));
}

#[test]
fn requests_that_come_together_are_answered_as_each_alone() {
    let service = Service::start("runs/a");
    let body = |i: usize| match i % 5 {
        0 => json!({"id": i, "user": i % 70}),
        1 => json!({"id": i, "history": [i % 60, 3], "top": 1 + i % 20}),
        2 => json!({"id": i, "history": [i % 60], "only": [1, 2, 3, i % 60]}),
        3 => json!({"id": i, "text": "soap"}),
        _ => json!({"id": i, "history": [], "exclude": [i % 60]}),
    };
    let alone: Vec<Value> = (0..120).map(|i| service.recommend(&body(i))).collect();
    let together: Vec<Value> = thread::scope(|scope| {
        let asked: Vec<_> = (0..120)
            .map(|i| {
                let service = &service;
                scope.spawn(move || service.recommend(&body(i)))
            })
            .collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (i, (a, b)) in alone.iter().zip(&together).enumerate() {
        assert_eq!((&a["id"], &b["id"]), (&json!(i), &json!(i)), "an answer went to another");
        if a.get("fallback").is_some() {
            assert_eq!(a, b);
        } else {
            assert_same(&a["items"], &b["items"]);
        }
    }
    assert_eq!(service.metric("llmbs_batch_requests_sum"), 240);
    assert_eq!(service.metric("llmbs_fallbacks_total"), 48);
    assert_eq!(service.metric("llmbs_requests_total{route=\"/recommend\",status=\"200\"}"), 240);
    assert_eq!(service.metric("llmbs_waiting_requests"), 0);
}

#[test]
fn whoever_is_not_known_is_recommended_what_is_popular() {
    let service = Service::start("runs/a");
    let popular = ids(&service.get("/items?top=60").json()["items"]);
    assert_eq!(popular.iter().collect::<BTreeSet<_>>().len(), 60);
    for (body, reason) in [
        (json!({"user": "nobody"}), "no user \"nobody\""),
        (json!({"history": []}), "history is empty"),
        (json!({"history": ["none", 99]}), "no item of the history"),
    ] {
        let answer = service.recommend(&body);
        assert_eq!(answer["fallback"], "popularity");
        assert!(answer["reason"].as_str().unwrap().contains(reason), "{answer}");
        assert_eq!(ids(&answer["items"]), popular[..10]);
        assert_eq!(answer["items"][0].get("score"), None);
    }
    let only: Vec<u64> = popular[20..30].iter().rev().copied().collect();
    let filtered =
        json!({"history": [], "only": only, "exclude": [popular[20]], "top": 3, "explain": true});
    let answer = service.recommend(&filtered);
    assert_eq!(ids(&answer["items"]), popular[21..24]);
    assert_eq!(answer["items"][0]["explanation"]["shared"], json!([]));
    // A mistyped name on the command line is a mistake; in a file it is somebody new.
    fails(&SHOP, &["--run", "runs/a", "recommend", "--user", "nobody"], &["nobody"]);
    fs::write(SHOP.join("new.jsonl"), "{\"user\": \"nobody\"}\n").unwrap();
    let batch = ["--run", "runs/a", "recommend", "--batch", "new.jsonl"];
    let (stdout, stderr) = run(&SHOP, &batch, 0);
    assert!(stdout.contains("\"fallback\":\"popularity\"") && stderr.contains("1 answers go by"));
}

#[test]
fn a_baseline_of_the_run_is_found_by_its_name_and_ranks_together_in_a_service() {
    let of = |words: &[&'static str]| [&["--run", "runs/b"], words].concat();
    let listen = ["serve", "--addr", "127.0.0.1:0", "--fuse", "item-knn"];
    fails(&SHOP, &of(&listen), &["runs/b/baseline/item-knn/seed-42: holds neither"]);
    run(&SHOP, &of(&["baseline", "item-knn"]), 0);
    fails(&SHOP, &of(&listen), &["eval --split test --adapter off --beam 20 --fuse"]);
    let folder = "runs/b/baseline/item-knn/seed-42";
    let json = |words: &[&'static str]| -> Value {
        serde_json::from_str(&run(&SHOP, &of(words), 0).0).unwrap()
    };
    let evaluated = json(&["eval", "--json", "--fuse", "item-knn", "--compare", "item-knn"]);
    let again = json(&["eval", "--json", "--fuse", folder, "--compare", folder]);
    assert_eq!(evaluated, again);
    assert!(evaluated["comparison"].is_object(), "{evaluated}");

    let ask = ["recommend", "--json", "--history", "3,14,15"];
    let by = |words: &[&'static str]| json(&[&ask[..], words].concat());
    let together = by(&["--fuse", "item-knn"]);
    assert_eq!(together, by(&["--fuse", folder]));
    assert_ne!(together, by(&[]));
    assert_eq!(by(&["--baseline", "item-knn"]), by(&["--baseline", folder]));
    let service = Service::start_with("runs/b", &["--fuse", "item-knn"]);
    let answer = service.recommend(&json!({"history": [3, 14, 15]}));
    assert_same(&answer["items"], &together);
}

#[test]
fn a_model_is_replaced_under_load_and_nothing_is_lost() {
    let link = SHOP.join("runs/current");
    let point_to = |run: &str| {
        let _ = fs::remove_file(&link);
        symlink(SHOP.join("runs").join(run), &link).unwrap();
    };
    let body = json!({"history": [5, 17], "top": 20});
    let expected = ["runs/b", "runs/a"].map(|run| Service::start(run).recommend(&body));
    let [b, a] = expected.map(|answer| answer["items"].clone());
    let is = |x: &Value, y: &Value| {
        ids(x) == ids(y) && {
            let score = |v: &Value| v[0]["score"].as_f64().unwrap();
            (score(x) - score(y)).abs() < 1e-4
        }
    };
    assert!(!is(&a, &b), "the models are the same");
    point_to("a");
    let service = Service::start("runs/current");
    let before = service.get("/healthz").json();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let ask = || {
            let mut seen = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                let answer = service.recommend(&body);
                match &answer["items"] {
                    items if is(items, &a) => seen.0 += 1,
                    items if is(items, &b) => seen.1 += 1,
                    items => panic!("neither model's: {items}"),
                }
            }
            seen
        };
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        for (at, run) in ["b", "a", "b"].into_iter().enumerate() {
            point_to(run);
            service.signal("-HUP");
            service.says("the model was replaced");
            assert_eq!(service.metric("llmbs_model_loads_total"), at as u64 + 2);
            // Whoever asks from now on is answered by the new one.
            let items = &service.recommend(&body)["items"];
            assert!(is(items, if run == "a" { &a } else { &b }));
        }
        // What cannot be opened takes nobody's place.
        point_to("none");
        service.signal("-HUP");
        let said = service.says("could not be replaced");
        assert!(said.contains("the one before goes on"), "{said}");
        stop.store(true, Ordering::Relaxed);
        let seen: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        assert!(seen.iter().any(|seen| seen.0 > 0) && seen.iter().any(|seen| seen.1 > 0));
    });
    assert!(is(&service.recommend(&body)["items"], &b));
    assert_eq!(service.metric("llmbs_failed_model_loads_total"), 1);
    let after = service.get("/healthz").json();
    assert_eq!((&before["status"], &after["dataset"]), (&json!("ok"), &json!("synth")));
    assert_ne!(before["model_sha256"], after["model_sha256"]);
}

/// A service of a copy of the run `a` that reads the next model out of a pipe, and the pipe, which has not ended.
fn loading(run: &str) -> (Service, PathBuf, fs::File) {
    let copy = SHOP.join(run);
    program::copy(&SHOP.join("runs/a"), &copy);
    let service = Service::start(run);
    let pipe = copy.join("added.json");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    service.signal("-HUP");
    // Opened once somebody reads it.
    let held = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    (service, pipe, held)
}

#[test]
fn a_service_that_is_stopped_does_not_wait_for_a_model() {
    let (mut service, _pipe, _held) = loading("runs/stuck");
    service.signal("-TERM");
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_signal_while_a_model_is_loaded_is_not_lost() {
    let (service, pipe, held) = loading("runs/slow");
    service.signal("-HUP");
    service.says("the run is loaded again after it");
    fs::remove_file(&pipe).unwrap();
    drop(held);
    service.says("could not be replaced");
    service.says("the model was replaced");
}

#[test]
fn a_service_that_is_stopped_answers_what_is_under_way() {
    let mut service = Service::start("runs/a");
    let bytes = post(&json!({"history": [5, 17]}).to_string());
    let (first, rest) = bytes.split_at(bytes.len() - 9);
    let mut under_way: Vec<TcpStream> = (0..40).map(|_| service.connect()).collect();
    for stream in &mut under_way {
        stream.write_all(first).unwrap();
    }
    let idle = service.connect();
    while service.metric("llmbs_connections") < 42 {}
    service.signal("-TERM");
    service.says("stopping once what is under way is done");
    while TcpStream::connect(&service.address).is_ok() {}
    for stream in &mut under_way {
        stream.write_all(rest).unwrap();
        let response = receive(stream);
        assert_eq!(response.status, 200, "{}", response.body);
    }
    drop(idle);
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
}

#[test]
fn hostile_requests_get_a_clear_answer_and_the_next_one_is_served() {
    let service = Service::start("runs/a");
    let refused = |bytes: &[u8], status: u16, expected: &str| {
        let response = service.send(bytes);
        let start = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).to_string();
        assert_eq!(response.status, status, "{start}: {:.500}", response.body);
        if !expected.is_empty() {
            assert!(response.head.contains("content-type: application/json"), "{}", response.head);
            let error = response.json()["error"].as_str().unwrap().to_string();
            assert!(error.contains(expected), "{start}: {error}");
            assert!(error.len() < 500, "{error}");
        }
        assert_eq!(service.get("/healthz").status, 200);
        response
    };
    let long = |n: usize| format!("[{}1]", "1,".repeat(n - 1));
    let many = |own: usize| {
        let own: Vec<String> = (0..own).map(|i| format!("\"{i}\": {i}")).collect();
        format!("{{\"user\": \"7\", {}}}", own.join(", "))
    };
    for (body, status, expected) in [
        ("{".to_string(), 400, "not JSON"),
        ("[1]".into(), 400, "expected an object"),
        (String::new(), 400, "not JSON"),
        ("{}".into(), 422, "exactly one of"),
        (r#"{"user": "7", "error": 1}"#.into(), 422, "no field \"error\""),
        (r#"{"history": [null]}"#.into(), 422, "an id or a raw id"),
        (r#"{"history": [1], "top": 0}"#.into(), 422, "top must be"),
        (r#"{"history": [1], "top": 1001}"#.into(), 422, "the most are 1000"),
        (r#"{"history": [1], "only": [99]}"#.into(), 409, "none of the items"),
        (r#"{"text": " "}"#.into(), 409, "text is empty"),
        (format!("{{\"history\": {}}}", long(1001)), 422, "the most are 1000"),
        (format!("{{\"history\": [1], \"exclude\": {}}}", long(1001)), 422, "the most are 1000"),
        (format!("{{\"history\": [1], \"only\": {}}}", long(10_001)), 422, "the most are 10000"),
        (format!("{{\"text\": \"{}\"}}", "x".repeat(10_001)), 422, "the most are 10000"),
        (many(64), 422, "the most are 64"),
        (many(60_000), 422, "the most are 64"),
        (many(60_000).replace('}', "!"), 400, "not JSON"),
        (format!("{{\"history\": {}", "[".repeat(500_000)), 400, "not JSON"),
        (format!("{{\"user\": \"{}\"}}", "x".repeat(1 << 20)), 413, "1048576 bytes"),
        (
            format!(
                "{{\"only\": [{}], \"history\": [1]}}",
                (0..60).fold(String::from("1"), |s, i| format!("{s},{i}"))
            )
            .replace(
                "\"history\": [1]",
                &format!(
                    "\"history\": [1], \"exclude\": [{}]",
                    (0..60).fold(String::from("1"), |s, i| format!("{s},{i}"))
                ),
            ),
            409,
            "all 60 items",
        ),
    ] {
        refused(&post(&body), status, expected);
    }
    // The longest that is allowed, and what a field of the requester's own may hold.
    let longest = format!("{{\"history\": {}, \"exclude_history\": true}}", long(1000));
    assert_eq!(service.post(&longest).status, 200);
    let nested =
        format!("{{\"history\": [1], \"mine\": {}{}}}", "[".repeat(9999), "]".repeat(9999));
    assert_eq!(service.post(&nested).status, 200);
    assert_eq!(service.post(&many(63)).status, 200);

    let head = |head: &str| format!("{head}\r\nHost: x\r\nConnection: close\r\n\r\n").into_bytes();
    refused(&head("GET /nothing HTTP/1.1"), 404, "there is no /nothing");
    refused(
        b"GET /items HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        421,
        "evil.example",
    );
    let response = refused(&head("GET /recommend HTTP/1.1"), 405, "not asked by GET");
    assert!(response.head.contains("allow: post"), "{}", response.head);
    refused(&head("DELETE /items HTTP/1.1"), 405, "not asked by DELETE");
    refused(&head("GET /items?top=0 HTTP/1.1"), 400, "top must be");
    refused(&head("GET /items?word=x HTTP/1.1"), 400, "no parameter \"word\"");
    refused(&head("POST /recommend HTTP/1.1"), 415, "application/json");
    let form = "POST /recommend HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 2";
    refused(&head(form), 415, "not \"text/plain\"");
    let json = "POST /recommend HTTP/1.1\r\nContent-Type: application/json";
    let bytes = format!("{json}\r\nContent-Length: 99999999999");
    refused(&head(&bytes), 413, "1048576 bytes");
    let mut bytes = head(&format!("{json}\r\nTransfer-Encoding: chunked"));
    for _ in 0..40 {
        bytes.extend(b"10000\r\n");
        bytes.extend(vec![b' '; 1 << 16]);
        bytes.extend(b"\r\n");
    }
    refused(&bytes, 413, "1048576 bytes");
    refused(
        &[&head(&format!("{json}\r\nContent-Length: 13"))[..], b"{\"user\": \"\xff\"}"].concat(),
        400,
        "not JSON",
    );
    // hyper's own, which says no more than the status.
    refused(b"\x16\x03\x01\x00\xa5\x01\x00\r\n\r\n", 400, "");
    refused(&head(&format!("GET /{} HTTP/1.1", "x".repeat(100_000))), 414, "");
    refused(&head(&format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(1 << 20))), 431, "");
    refused(&head(&format!("GET / HTTP/1.1{}", "\r\nX: y".repeat(500))), 431, "");
    assert_eq!(service.metric("llmbs_connections"), 1);
}

#[test]
fn slow_clients_are_cut_off() {
    let service = Service::start("runs/a");
    let bytes = post("{\"history\": [1]}");
    let mut slow_head = service.connect();
    slow_head.write_all(&bytes[..20]).unwrap();
    let mut slow_body = service.connect();
    slow_body.write_all(&bytes[..bytes.len() - 3]).unwrap();
    let mut idle = service.connect();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let half = service.connect();
    half.shutdown(Shutdown::Write).unwrap();

    let response = receive(&mut slow_body);
    assert_eq!((response.status, response.json()["error"].is_string()), (408, true));
    for stream in [&mut slow_head, &mut idle, &mut { half }] {
        let mut rest = Vec::new();
        // Closed, with or without a word.
        let _ = stream.read_to_end(&mut rest);
        let ended = stream.read(&mut [0; 1]);
        assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    }
    assert!(service.recommend(&json!({"history": [1]}))["items"][0]["item"].is_u64());
}

#[test]
fn items_are_found_by_words_and_ids() {
    let service = Service::start("runs/a");
    let all = service.get("/items?top=60").json();
    let title = all["items"][30]["title"].as_str().unwrap().to_string();
    let raw_id = all["items"][30]["raw_id"].as_str().unwrap();
    let word = title.split(' ').next().unwrap();
    let found = |query: &str| service.get(&format!("/items?{query}")).json()["items"].clone();
    let titles = |items: &Value| -> Vec<String> {
        items.as_array().unwrap().iter().map(|i| i["title"].as_str().unwrap().into()).collect()
    };
    let by_word = titles(&found(&format!("words={}&top=60", word.to_uppercase())));
    assert!(by_word.contains(&title) && by_word.iter().all(|t| t.contains(word)), "{by_word:?}");
    assert_eq!(
        titles(&found(&format!("words={}", title.replace(' ', "+").replace('&', "%26")))),
        [title]
    );
    assert_eq!(
        ids(&found(&format!("words={raw_id}"))),
        [all["items"][30]["item"].as_u64().unwrap()]
    );
    assert_eq!(found("words=no+such+words"), json!([]));
    assert_eq!(ids(&found("")).len(), 20);
}

#[test]
fn the_document_says_what_the_service_takes() {
    let service = Service::start("runs/a");
    let document = service.get("/openapi.json").json();
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let head =
                format!("{} {path} HTTP/1.1\r\nConnection: close\r\n", method.to_uppercase());
            for host in ["x", "evil.example"] {
                let asked = format!("{head}Host: {host}\r\n\r\n");
                let status = service.send(asked.as_bytes()).status;
                let answers = &methods[method]["responses"];
                assert!(answers.get(status.to_string()).is_some(), "{method} {path}: {status}");
            }
        }
    }
    let schemas = &document["components"]["schemas"];
    let fields = schemas["Request"]["properties"].as_object().unwrap();
    let (refused, taken): (Vec<_>, Vec<_>) =
        fields.iter().partition(|(_, schema)| schema.get("not").is_some());
    for (name, _) in refused {
        let response = service.post(&json!({"user": "7", name: 1}).to_string());
        assert_eq!(response.status, 422, "{name}");
    }
    for (name, schema) in taken {
        // What no field takes.
        let mut body = json!({name: {}});
        if !["user", "history", "text"].contains(&name.as_str()) {
            body["history"] = json!([1]);
        }
        let response = service.post(&body.to_string());
        assert_eq!(response.status, 422, "{name}: {}", response.body);
        // As much as it takes, and one more.
        let sized = |n: u64| match schema["type"].as_str() {
            Some("array") => json!(vec![1; n as usize]),
            Some("string") => json!("x".repeat(n as usize)),
            _ => json!(n),
        };
        for limit in ["maxItems", "maxLength", "maximum"] {
            if let Some(limit) = schema[limit].as_u64() {
                body[name] = sized(limit);
                assert_eq!(service.post(&body.to_string()).status, 200, "{name}");
                body[name] = sized(limit + 1);
                assert_eq!(service.post(&body.to_string()).status, 422, "{name}");
            }
        }
    }
    let answer = service.recommend(&json!({"history": [1, 99], "explain": true, "top": 1}));
    let described = schemas["Answer"]["properties"].as_object().unwrap();
    for name in ["items", "unknown"] {
        assert!(answer.get(name).is_some() && described.contains_key(name), "{name}");
    }
    for name in answer["items"][0].as_object().unwrap().keys() {
        assert!(schemas["Recommendation"]["properties"].get(name).is_some(), "{name}");
    }
    let about = service.get("/healthz").json();
    for name in about.as_object().unwrap().keys() {
        assert!(schemas["Health"]["properties"].get(name).is_some(), "{name}");
    }
}

#[test]
fn the_page_needs_nothing_but_the_service() {
    let service = Service::start("runs/a");
    let response = service.get("/");
    assert!(response.head.contains("content-security-policy: default-src 'none'"));
    assert!(response.head.contains("content-type: text/html"));
    for outside in ["http:", "https:", "src=", "@import", "url(", "innerHTML"] {
        assert!(!response.body.contains(outside), "{outside}");
    }
}

#[test]
fn a_service_that_cannot_begin_says_why() {
    let serve = |args: &[&str], expected: &[&str]| {
        let address = ["serve", "--addr", "127.0.0.1:0"];
        fails(&SHOP, &[args, &address].concat(), expected);
    };
    serve(&["--run", "runs/absent"], &["llmbs"]);
    fails(&SHOP, &["--run", "runs/a", "serve", "--beam", "0"], &["--beam must be at least 1"]);
    let service = Service::start("runs/a");
    let taken = ["--run", "runs/a", "serve", "--addr", &service.address];
    fails(&SHOP, &taken, &[&service.address, "in use"]);
}
