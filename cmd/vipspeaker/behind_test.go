package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"vipspeaker/pkg/bfd"
	"vipspeaker/pkg/status"
	"vipspeaker/test/netnstest"
)

// behindConfig is a host whose router is in a namespace of its own. Neither a verdict of
// its probe nor a BFD session ends by what a machine stands still for.
const behindConfig = `
bgp: {asn: 65010}
interfaces:
  - name: en1
    hold_up: 200ms
    gateway_probe: {interval: 500ms, failures: 3}
    peers: [{address: 10.68.1.2, asn: 65001, bfd: {min_tx: 50ms, min_rx: 50ms, multiplier: 100}}]
vips:
  - {name: vipa, address: 10.68.6.1/32, checks: [{listen: {port: 8080}, interval: 100ms}]}
  - {name: vipb, address: 10.68.6.2/32, checks: [{icmp: {address: 10.68.6.2}, interval: 100ms}]}
`

// behindLab is that host, with a daemon that runs.
func behindLab(t *testing.T, ns netnstest.NS, config string) (router netnstest.NS, d *program) {
	t.Helper()
	ns.Sysctl("net/ipv6/conf/default/addr_gen_mode", "1")
	router = ns.New("router")
	ns.VethTo("en1", router, "sw1")
	ns.IP("addr add 10.68.1.1/24 dev en1")
	router.IP("addr add 10.68.1.2/24 dev sw1")
	netnstest.Until(t, soon, func() error {
		if out, err := ns.TryIP("-br link show en1"); err != nil || !strings.Contains(out, " UP ") {
			return errors.New(out)
		}
		return nil
	})
	path := "/run/vipspeaker.yaml"
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	d = start(t, nil, nil, "run", "--config", path, "--data-dir", "/run/data")
	return router, d
}

// shows waits until the picture is as wanted.
func shows(t *testing.T, what string, want func(s *status.Status) bool) {
	t.Helper()
	netnstest.Until(t, soon, func() error {
		s, err := picture(t)
		if err == nil && !want(s) {
			err = fmt.Errorf("%s: not in %+v %+v", what, s.Interfaces, s.Peers)
		}
		return err
	})
}

// TestSilentGateway: a gateway that no longer answers takes its interface out of
// use though the link is well, and one that answers again brings it back.
func TestSilentGateway(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		router, d := behindLab(t, ns, behindConfig)
		shows(t, "answered", func(s *status.Status) bool {
			n := s.Interfaces[0]
			return n.Usable && len(n.Probes) == 1 && n.Probes[0].Verdict == "healthy"
		})
		router.IP("addr del 10.68.1.2/24 dev sw1")
		shows(t, "silent", func(s *status.Status) bool {
			n := s.Interfaces[0]
			return n.Reason == status.InterfaceAttachment && len(n.Failures) == 1 && n.Failures[0].Target == "10.68.1.2" && n.Failures[0].Failed == 3
		})
		router.IP("addr add 10.68.1.2/24 dev sw1")
		shows(t, "answered again", func(s *status.Status) bool { return s.Interfaces[0].Usable && len(s.Interfaces[0].Failures) == 0 })
		got := call(t, "events", "-o", "json")
		for _, want := range []string{`"started"`, `"interface unusable"`, `"attachment"`, `"probe verdict"`, `"interface usable"`, "10.68.1.2 unreachable since"} {
			if !strings.Contains(got.Stdout, want) {
				t.Errorf("no event with %s: %s", want, got.Stdout)
			}
		}
		if code := d.signal(t, syscall.SIGTERM); code != exitGood {
			t.Errorf("exit code %d", code)
		}
		if want := `detail="10.68.1.2 unreachable since`; strings.Count(d.log.String(), want) != 1 {
			t.Errorf("%q is not in the log once", want)
		}
	})
}

// TestBFDOfARunningDaemon: the session comes up, a reload changes its timers in
// place, a router that is gone is seen, and at the end the router hears that BFD
// is not wanted, whatever the mode.
func TestBFDOfARunningDaemon(t *testing.T) {
	for _, mode := range []string{modeDrain, modeRestart} {
		t.Run(mode, func(t *testing.T) {
			netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
				router, d := behindLab(t, ns, behindConfig+"shutdown: {mode: "+mode+"}\n")
				far := bfd.New(bfd.Options{})
				own := bfd.SessionConfig{
					Peer: netip.MustParseAddr("10.68.1.1"), Local: netip.MustParseAddr("10.68.1.2"), Interface: "sw1",
					MinTx: 50 * time.Millisecond, MinRx: 50 * time.Millisecond, Multiplier: 100,
				}
				far.Set([]bfd.SessionConfig{own})
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					router.Do(func() error { return far.Run(ctx) })
				}()
				defer func() { cancel(); <-ended }()
				up := func(tx time.Duration) func(s *status.Status) bool {
					return func(s *status.Status) bool {
						b := s.Peers[0].BFD
						return b != nil && b.State == "Up" && b.TxInterval == tx && b.Downs == 0
					}
				}
				shows(t, "up", up(50*time.Millisecond))
				slower := strings.Replace(behindConfig, "min_tx: 50ms", "min_tx: 80ms", 1) + "shutdown: {mode: " + mode + "}\n"
				if err := os.WriteFile("/run/vipspeaker.yaml", []byte(slower), 0o600); err != nil {
					t.Fatal(err)
				}
				if got := call(t, "reload"); got.Code != exitGood {
					t.Errorf("reload: %+v", got)
				}
				shows(t, "slower", up(80*time.Millisecond))
				if code := d.signal(t, syscall.SIGTERM); code != exitGood {
					t.Errorf("exit code %d", code)
				}
				netnstest.Until(t, soon, func() error {
					s, _ := far.State().Session(own.Peer, own.Local, own.Interface)
					if s.RemoteStatus != bfd.AdminDown || s.Downs != 0 {
						return fmt.Errorf("the router sees %+v", s)
					}
					return nil
				})
			})
		})
	}
}

// TestChecksOfARunningDaemon: a socket that listens and an echo that is answered
// are seen, and the end of the listener at once.
func TestChecksOfARunningDaemon(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		_, d := behindLab(t, ns, behindConfig)
		verdicts := func(listen, icmp string) func(s *status.Status) bool {
			return func(s *status.Status) bool {
				return s.VIPs[0].Checks[0].Verdict == listen && s.VIPs[1].Checks[0].Verdict == icmp
			}
		}
		shows(t, "no listener", verdicts("unhealthy", "healthy"))
		l, err := net.Listen("tcp", "10.68.6.1:8080")
		if err != nil {
			t.Fatal(err)
		}
		shows(t, "a listener", verdicts("healthy", "healthy"))
		if err = l.Close(); err != nil {
			t.Fatal(err)
		}
		shows(t, "none again", verdicts("unhealthy", "healthy"))
		if code := d.signal(t, syscall.SIGTERM); code != exitGood {
			t.Errorf("exit code %d", code)
		}
	})
}

// TestInterfaceComesBack: whatever is done to the link, its use ends with a
// reason, and begins again by itself when all is as it was.
func TestInterfaceComesBack(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		router, d := behindLab(t, ns, behindConfig)
		made := func() {
			ns.VethTo("en1", router, "sw1")
			ns.IP("addr add 10.68.1.1/24 dev en1")
			router.IP("addr add 10.68.1.2/24 dev sw1")
		}
		usable := func(s *status.Status) bool {
			n := s.Interfaces[0]
			return n.Usable && len(n.Probes) == 1 && n.Probes[0].Verdict == "healthy"
		}
		for _, step := range []struct {
			name      string
			gone, own func()
			want      status.Reason
		}{
			{"down", func() { ns.IP("link set en1 down") }, func() { ns.IP("link set en1 up") }, status.InterfaceDown},
			{"no carrier", func() { router.IP("link set sw1 down") }, func() { router.IP("link set sw1 up") }, status.InterfaceCarrier},
			{"address", func() { ns.IP("addr del 10.68.1.1/24 dev en1") }, func() { ns.IP("addr add 10.68.1.1/24 dev en1") }, status.InterfaceAddress},
			{
				"renamed", func() { ns.IP("link set en1 down"); ns.IP("link set en1 name en1x") },
				func() { ns.IP("link set en1x name en1"); ns.IP("link set en1 up") }, status.InterfaceAbsent,
			},
			{
				"moved", func() { ns.IP("link set en1 netns %s", router.Name()) },
				func() {
					router.IP("link set en1 netns %d", os.Getpid())
					ns.IP("link set en1 up")
					ns.IP("addr add 10.68.1.1/24 dev en1")
				}, status.InterfaceAbsent,
			},
			{"deleted", func() { ns.IP("link del en1") }, made, status.InterfaceAbsent},
		} {
			shows(t, "before: "+step.name, usable)
			step.gone()
			shows(t, step.name, func(s *status.Status) bool {
				n := s.Interfaces[0]
				return n.Reason == step.want && s.Peers[0].State == "Down" && s.Peers[0].BFD.State == "AdminDown"
			})
			step.own()
			shows(t, "back: "+step.name, usable)
		}
		if code := d.signal(t, syscall.SIGTERM); code != exitGood {
			t.Errorf("exit code %d", code)
		}
	})
}
