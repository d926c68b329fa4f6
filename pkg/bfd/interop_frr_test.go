package bfd

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"vipspeaker/test/netnstest"
)

const frrDir = "/usr/lib/frr/"

// frr is zebra and bfdd.
type frr struct {
	w     *world
	bfdd  *daemon
	peers []remote
}

func newFRR(w *world) router {
	w.t.Helper()
	if err := os.MkdirAll("/run/frr", 0o755); err != nil {
		w.t.Fatal(err)
	}
	f := &frr{w: w}
	f.daemon("zebra", "/run/frr/zserv.api")
	return f
}

// daemon starts one of FRR's, as root: a process that changes its user forgets
// that it is to die with its parent.
func (f *frr) daemon(name string, sockets ...string) *daemon {
	f.w.t.Helper()
	conf := "/run/frr/" + name + ".conf"
	if _, err := os.Stat(conf); err != nil {
		if err := os.WriteFile(conf, nil, 0o600); err != nil {
			f.w.t.Fatal(err)
		}
	}
	return f.w.daemonize(name, append(sockets, "/run/frr/"+name+".vty"), frrDir+name,
		"-u", "root", "-g", "frrvty", "-A", "127.0.0.1", "-f", conf, "-i", "/run/frr/"+name+".pid",
		"--vty_socket", "/run/frr", "--log", "stdout", "--log-level", "notifications")
}

func (f *frr) vtysh(commands ...string) (string, error) {
	args := []string{"--vty_socket", "/run/frr", "-d", "bfdd"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	out, err := exec.CommandContext(f.w.t.Context(), "vtysh", args...).CombinedOutput()
	if err != nil || strings.Contains(string(out), "% Unknown") {
		return "", fmt.Errorf("vtysh %q: %w: %s", commands, err, out)
	}
	return string(out), nil
}

func (p *remote) frrName() string {
	if p.multihop {
		return fmt.Sprintf("peer %s multihop local-address %s", p.local, p.peer)
	}
	return fmt.Sprintf("peer %s local-address %s interface wan", p.local, p.peer)
}

// lines are the commands that make the peers what they are to be.
func (f *frr) lines() []string {
	out := []string{"bfd"}
	for _, p := range f.peers {
		out = append(out, p.frrName(),
			fmt.Sprintf("detect-multiplier %d", p.times),
			fmt.Sprintf("transmit-interval %d", p.minTx.Milliseconds()),
			fmt.Sprintf("receive-interval %d", p.minRx.Milliseconds()))
		for mode, on := range map[string]bool{"passive-mode": p.passive, "echo-mode": p.echo} {
			if !on {
				mode = "no " + mode
			}
			if on || !p.multihop { // there is no echo over several hops
				out = append(out, mode)
			}
		}
		out = append(out, "exit")
	}
	return append(out, "exit")
}

func (f *frr) configure(peers ...remote) {
	f.w.t.Helper()
	f.peers = peers
	if err := os.WriteFile("/run/frr/bfdd.conf", []byte(strings.Join(f.lines(), "\n")+"\n"), 0o600); err != nil {
		f.w.t.Fatal(err)
	}
	if f.bfdd == nil {
		f.start()
		return
	}
	if _, err := f.vtysh(append([]string{"configure terminal"}, f.lines()...)...); err != nil {
		f.w.t.Fatal(err)
	}
}

func (f *frr) start() {
	f.w.t.Helper()
	f.bfdd = f.daemon("bfdd")
	// A passive session of FRR 8.4 that hears us before it knows its interface
	// stays in Init for ever and never answers.
	netnstest.Until(f.w.t, patience, func() error {
		if n := strings.Count(f.w.r1.Exec("ss", "-Hlun", "sport >= 49152"), "UNCONN"); n < len(f.peers) {
			return fmt.Errorf("bfdd has %d sessions that can send, of %d", n, len(f.peers))
		}
		return nil
	})
}

func (f *frr) kill() { f.bfdd.kill() }

func (f *frr) shut(down bool) {
	f.w.t.Helper()
	word := "shutdown"
	if !down {
		word = "no shutdown"
	}
	for _, p := range f.peers {
		if _, err := f.vtysh("configure terminal", "bfd", p.frrName(), word); err != nil {
			f.w.t.Fatal(err)
		}
	}
}

func (f *frr) view(local netip.Addr) (theirs, error) {
	out, err := f.vtysh("show bfd peers json")
	if err != nil {
		return theirs{}, err
	}
	var list []struct {
		Peer       string `json:"peer"`
		Status     string `json:"status"`
		RemoteDiag string `json:"remote-diagnostic"`
		Mult       int    `json:"detect-multiplier"`
		MinTx      int    `json:"transmit-interval"`
		MinRx      int    `json:"receive-interval"`
		RemoteMult int    `json:"remote-detect-multiplier"`
		RemoteTx   int    `json:"remote-transmit-interval"`
		RemoteRx   int    `json:"remote-receive-interval"`
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return theirs{}, fmt.Errorf("show bfd peers json: %w: %s", err, out)
	}
	for _, p := range list {
		if p.Peer != local.String() {
			continue
		}
		status := map[string]SessionStatus{"up": Up, "down": Down, "init": Init, "shutdown": AdminDown}[p.Status]
		ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
		v := theirs{
			Status: status, RemoteDiag: p.RemoteDiag, MinTx: ms(p.MinTx), MinRx: ms(p.MinRx), Mult: p.Mult,
			RemoteTx: ms(p.RemoteTx), RemoteRx: ms(p.RemoteRx), RemoteMult: p.RemoteMult,
		}
		v.Interval = max(v.MinTx, v.RemoteRx)
		v.DetectAfter = time.Duration(v.RemoteMult) * max(v.MinRx, v.RemoteTx)
		return v, nil
	}
	return theirs{}, fmt.Errorf("bfdd has no peer %s: %s", local, out)
}

// FRR's bfdd has no authentication (https://docs.frrouting.org/en/stable-8.4/bfd.html
// names none), so there is nothing to interoperate with: it drops what we
// authenticate, or we what it does not.
func TestInteropFRRHasNoAuthentication(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		w := newWorld(t, ns)
		o := families()["ipv4"]
		o.mult = 3 // FRR must forget the first session before it takes the second
		r := newFRR(w).(*frr)
		r.configure(o.remote())
		if out, err := r.vtysh("configure terminal", "bfd", r.peers[0].frrName(), "list"); err != nil || strings.Contains(out, "auth") {
			t.Errorf("commands of a peer: %v: %s", err, out)
		}
		cfg := o.wish()
		cfg.Auth = &Auth{Type: KeyedSHA1, KeyID: 1, Key: "sesame"}
		us := w.run(cfg)
		s := us.await("dropping", func(s SessionState) bool { return s.Dropped > 2 })
		if s.Status == Up {
			t.Errorf("up without authentication: %+v", s)
		}
		t.Logf("FRR's packets are not taken: %s", s.LastDrop)
		cfg.Auth = nil
		us.set(cfg)
		us.awaitStatus(Up)
	})
}
