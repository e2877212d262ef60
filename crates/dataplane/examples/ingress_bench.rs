//! The ingress beside nginx and HAProxy (Debian packages) as reverse proxies, in the same run, each on one core.
//!
//!     cargo run --release -p hitless-dataplane --example ingress_bench
//!
//! The proxy under measurement has core 0, one worker and kept-alive connections to the origin; the load (wrk, Debian package) and the origin
//! (nginx) have core 1. The three take turns. Beside throughput and p99, which other work on the machine spoils, stand requests for
//! each second of CPU that the proxy used, which other work hardly touches.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a tool for measurements: it ends where it cannot go on"
)]

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use hitless_dataplane::ingress::{Options, fixed};

const ORIGIN: u16 = 18080;
const PROXIES: [(&str, u16); 3] = [("nginx", 18081), ("haproxy", 18082), ("hitless", 18083)];
const ROUNDS: usize = 5;
const BODY_BYTES: usize = 1024;

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[derive(Clone, Copy, Default)]
struct Figures {
    per_s: f64,
    p99_ms: f64,
    per_cpu_s: f64,
    failed: f64,
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("serve") {
        return serve();
    }
    let directory = std::env::temp_dir().join(format!("ingress-bench-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let origin = origin(&directory);
    let proxies = PROXIES.map(|(name, port)| (port, proxy(name, port, &directory)));
    for keep_alive in [true, false] {
        let mut all = [const { Vec::new() }; PROXIES.len()];
        for _ in 0..ROUNDS {
            for ((port, running), figures) in proxies.iter().zip(&mut all) {
                figures.push(measure(*port, running.0.id(), keep_alive, &directory));
            }
        }
        show(keep_alive, &all);
    }
    drop((proxies, origin));
    let _left = fs::remove_dir_all(&directory);
}

/// The child that is the ingress.
fn serve() {
    let options = Options {
        http_port: PROXIES[2].1,
        https_port: 18443,
        workers: 1,
        ..Options::new(vec![[127, 0, 0, 1].into()])
    };
    let _servers = fixed::serve(&options, &[([127, 0, 0, 1], ORIGIN).into()]).unwrap();
    loop {
        std::thread::park();
    }
}

fn on_core(core: u8, program: &str, words: &[&str]) -> Running {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string(), program]).args(words);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    Running(child.unwrap_or_else(|error| panic!("{program} cannot be started: {error}")))
}

fn wait_for(port: u16) {
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    let end = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < end, "nothing listens on {address}: are nginx, haproxy and wrk installed?");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One process, so that its CPU time can be read off it.
fn nginx(core: u8, name: &str, http: &str, directory: &Path) -> Running {
    let config = directory.join(format!("{name}.conf"));
    let dir = directory.display();
    let text = format!(
        "daemon off; master_process off; worker_processes 1; error_log /dev/null crit; pid {dir}/{name}.pid;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; client_body_temp_path {dir}; proxy_temp_path {dir}; fastcgi_temp_path {dir};\n\
         uwsgi_temp_path {dir}; scgi_temp_path {dir}; keepalive_requests 100000000; {http} }}\n",
    );
    fs::write(&config, text).unwrap();
    on_core(core, "nginx", &["-c", config.to_str().unwrap()])
}

fn origin(directory: &Path) -> Running {
    let body = "x".repeat(BODY_BYTES);
    let http = format!(
        "server {{ listen 127.0.0.1:{ORIGIN} backlog=4096; location / {{ return 200 \"{body}\"; }} }}"
    );
    let running = nginx(1, "origin", &http, directory);
    wait_for(ORIGIN);
    running
}

fn nginx_proxy(port: u16, directory: &Path) -> Running {
    let http = format!(
        "upstream pods {{ server 127.0.0.1:{ORIGIN}; keepalive 128; keepalive_requests 100000000; }}\n\
         server {{ listen 127.0.0.1:{port} backlog=4096; location / {{\n\
         proxy_pass http://pods; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         proxy_set_header Host $http_host; proxy_set_header X-Real-IP $remote_addr;\n\
         proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;\n\
         proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Forwarded-Port $server_port; }} }}"
    );
    nginx(0, "proxy", &http, directory)
}

fn haproxy(port: u16, directory: &Path) -> Running {
    let config = directory.join("haproxy.cfg");
    let text = format!(
        "global\n nbthread 1\n maxconn 4096\n\
         defaults\n mode http\n timeout client 60s\n timeout server 60s\n timeout connect 5s\n http-reuse always\n\
         frontend f\n bind 127.0.0.1:{port} backlog 4096\n\
         http-request set-header X-Real-IP %[src]\n http-request set-header X-Forwarded-For %[src]\n\
         http-request set-header X-Forwarded-Proto http\n\
         http-request set-header X-Forwarded-Host %[req.hdr(host)]\n\
         http-request set-header X-Forwarded-Port %[dst_port]\n default_backend b\n\
         backend b\n server s 127.0.0.1:{ORIGIN}\n"
    );
    fs::write(&config, text).unwrap();
    on_core(0, "haproxy", &["-db", "-f", config.to_str().unwrap()])
}

fn proxy(name: &str, port: u16, directory: &Path) -> Running {
    let running = match name {
        "nginx" => nginx_proxy(port, directory),
        "haproxy" => haproxy(port, directory),
        _ => on_core(0, std::env::current_exe().unwrap().to_str().unwrap(), &["serve"]),
    };
    wait_for(port);
    running
}

/// CPU seconds of a process so far.
fn cpu_s(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after = stat.rsplit(')').next().unwrap();
    let ticks: u32 = after.split_whitespace().skip(11).take(2).map(|word| word.parse::<u32>().unwrap()).sum();
    f64::from(ticks) / 100.0
}

fn measure(port: u16, pid: u32, keep_alive: bool, directory: &Path) -> Figures {
    // wrk says its figures in words that are made to be read; a line of Lua says them plainly.
    let script = directory.join("done.lua");
    let close = if keep_alive { "" } else { "wrk.headers[\"Connection\"] = \"close\"\n" };
    let text = format!(
        "{close}function done(s, l, r)\n local e = s.errors\n\
         io.write(string.format(\"FIGURES %d %d %d %d\\n\", s.requests, s.duration, l:percentile(99.0),\n\
         e.connect + e.read + e.write + e.status + e.timeout))\nend\n"
    );
    fs::write(&script, text).unwrap();
    let url = format!("http://127.0.0.1:{port}/");
    let before = cpu_s(pid);
    let output = Command::new("taskset")
        .args(["-c", "1", "wrk", "-t1", "-c64", "-d4s", "-s", script.to_str().unwrap(), &url])
        .output()
        .expect("wrk cannot be started");
    let used = cpu_s(pid) - before;
    let text = String::from_utf8_lossy(&output.stdout);
    let line =
        text.lines().find_map(|line| line.strip_prefix("FIGURES ")).unwrap_or_else(|| panic!("{text}"));
    let numbers: Vec<f64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
    Figures {
        per_s: numbers[0] / (numbers[1] / 1e6),
        p99_ms: numbers[2] / 1e3,
        per_cpu_s: numbers[0] / used.max(0.01),
        failed: numbers[3],
    }
}

fn median(figures: &[Figures], of: impl Fn(&Figures) -> f64) -> f64 {
    let mut all: Vec<f64> = figures.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn show(keep_alive: bool, all: &[Vec<Figures>]) {
    let kind = if keep_alive { "kept-alive connections" } else { "a connection for each request" };
    println!("{kind}, 64 clients, {BODY_BYTES} bytes, medians of {ROUNDS} rounds");
    for ((name, _), figures) in PROXIES.iter().zip(all) {
        println!(
            "  {name:8} {:8.0} requests/s  p99 {:7.2} ms  {:8.0} requests/CPU s  {} failed",
            median(figures, |f| f.per_s),
            median(figures, |f| f.p99_ms),
            median(figures, |f| f.per_cpu_s),
            figures.iter().map(|f| f.failed).sum::<f64>(),
        );
    }
    let ratio = |of: fn(&Figures) -> f64| median(&all[2], of) / median(&all[0], of).max(median(&all[1], of));
    println!(
        "  hitless to the better of the others: {:.2} in throughput, {:.2} for each CPU second",
        ratio(|f| f.per_s),
        ratio(|f| f.per_cpu_s)
    );
}
