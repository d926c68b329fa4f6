package lab

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// pair is the smallest topology that has a path.
const pair = `name: pair
topology:
  defaults: {kind: linux, network-mode: none}
  nodes:
    a:
      image: nicolaka/netshoot:v0.13
      exec:
        - ip addr add 192.0.2.1/24 dev a0
        - ip addr add 2001:db8::1/64 dev a0 nodad
    b:
      image: nicolaka/netshoot:v0.13
      binds: ["hello:/etc/vipspeaker/hello"]
      exec:
        - ip addr add 192.0.2.2/24 dev b0
        - ip addr add 2001:db8::2/64 dev b0 nodad
    side:
      image: vipspeaker:latest
      network-mode: container:b
  links:
    - endpoints: ["a:a0", "b:b0"]
`

func startPair(t *testing.T) *Lab {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"topology.clab.yml": pair, "hello": "world\n"} {
		if err := os.WriteFile(dir+"/"+name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Start(t, dir)
}

func TestNodes(t *testing.T) {
	l := startPair(t)
	a, b := l.Node("a"), l.Node("b")
	if l.Node("side") != b {
		t.Error("a node with network-mode container:b is not b")
	}
	if got := b.Run("cat", "/etc/vipspeaker/hello"); got != "world\n" {
		t.Errorf("bound file: %q", got)
	}
	a.WriteFile("/etc/vipspeaker/hello", "again\n")
	if got := a.Run("cat", "/etc/vipspeaker/hello"); got != "again\n" {
		t.Errorf("written file: %q", got)
	}
	if got := b.Run("cat", "/etc/vipspeaker/hello"); got != "world\n" {
		t.Errorf("the other node's file: %q", got)
	}
	if _, err := os.Stat("/etc/vipspeaker/hello"); err == nil {
		t.Error("the machine's /etc was written")
	}
	if got := a.Run("sh", "-c", "cd /sys/class/net; echo *"); got != "a0 lo\n" {
		t.Errorf("links of a: %q", got)
	}
	if _, err := a.Try("false"); err == nil {
		t.Error("a failing command is fine")
	}
	before := a.State()
	for _, want := range []string{"192.0.2.1/24", "2001:db8::1/64", "net/ipv4/conf/a0/arp_announce = 0", "default_ttl"} {
		if has := strings.Contains(before, want); has != (want != "default_ttl") {
			t.Errorf("state contains %q: %v", want, has)
		}
	}
	a.Run("ip", "addr", "add", "192.0.2.77/32", "dev", "lo")
	if cmp.Equal(before, a.State()) {
		t.Error("state does not show a new address")
	}
	a.Run("ip", "addr", "del", "192.0.2.77/32", "dev", "lo")
	if diff := cmp.Diff(before, a.State()); diff != "" {
		t.Errorf("state after add and delete: %s", diff)
	}
}

func TestProcess(t *testing.T) {
	a := startPair(t).Node("a")
	p := a.StartProcess("shell", "sh", "-c", "trap 'exit 7' TERM; echo hello; while :; do sleep 0.05; done")
	Eventually(t, 5*time.Second, "it says hello", func() error { return That(p.Log() == "hello\n", "log %q", p.Log()) })
	if !p.Running() {
		t.Error("it does not run")
	}
	p.Signal(15)
	if code := p.Wait(5 * time.Second); code != 7 {
		t.Errorf("exit code %d", code)
	}
	p.Kill()
}

func TestProbeSeesTheGap(t *testing.T) {
	l := startPair(t)
	a, b := l.Node("a"), l.Node("b")
	for _, address := range []string{"192.0.2.2", "2001:db8::2"} {
		t.Run(address, func(t *testing.T) {
			p := StartProbe(a, b, netip.AddrPortFrom(netip.MustParseAddr(address), 7), ProbeOptions{Ports: []uint16{4001, 4002}})
			s := StartSession(a, netip.AddrPort{}, b, netip.AddrPortFrom(netip.MustParseAddr(address), 8))
			p.WaitAnswered(5 * time.Second)
			s.WaitAlive(5 * time.Second)
			const least = 300 * time.Millisecond
			cut := time.Now()
			l.DropFrames("a", "a0")
			dropping := time.Now()
			// What came before may be read only now.
			Eventually(t, 10*time.Second, "nothing comes back", func() error {
				return That(s.silence() >= least && time.Since(dropping) >= least, "the last echo is %v old", s.silence())
			})
			l.PassFrames("a", "a0")
			healed := time.Now()
			p.WaitAnswered(5 * time.Second)
			s.WaitAlive(5 * time.Second)
			r := p.Stop()
			t.Logf("cut for %v: %v; session gap %v", healed.Sub(cut), r, s.Gap(cut))
			// A probe's time is that before it is sent, which may be a while before.
			if gap := r.Gap(cut); gap < least*2/3 {
				t.Errorf("gap %v for a cut of %v", gap, healed.Sub(cut))
			}
			Within(t, "the gap", cut, r.Gap(cut), healed.Sub(cut)+50*time.Millisecond)
			if gap := s.Gap(cut); gap < least {
				t.Errorf("session gap %v for a cut of %v", gap, healed.Sub(cut))
			}
			if s.Err() != nil {
				t.Errorf("session: %v", s.Err())
			}
		})
	}
}

func TestLinks(t *testing.T) {
	l := startPair(t)
	a := l.Node("a")
	carrier := func(want string) {
		t.Helper()
		Eventually(t, 5*time.Second, "carrier is "+want, func() error {
			got, _ := a.Try("cat", "/sys/class/net/a0/carrier")
			return That(strings.TrimSpace(got) == want, "it is %q", got)
		})
	}
	carrier("1")
	watch := a.WatchRoute(netip.MustParsePrefix("192.0.2.0/24"))
	watch.Wait(5*time.Second, time.Now(), "there", func(h []Hop) bool { return len(Live(h)) == 1 })
	l.Unplug("a", "a0")
	carrier("0")
	l.Plug("a", "a0")
	carrier("1")
	at := time.Now()
	a.LinkDown("a0")
	watch.Wait(5*time.Second, at, "gone", func(h []Hop) bool { return len(h) == 0 })
	a.LinkUp("a0")
	watch.Wait(5*time.Second, at, "back", func(h []Hop) bool { return len(Live(h)) == 1 })
}

func TestCaptureSeesPackets(t *testing.T) {
	l := startPair(t)
	a, b := l.Node("a"), l.Node("b")
	c := a.Capture()
	s := StartSession(a, netip.AddrPort{}, b, netip.MustParseAddrPort("[2001:db8::2]:8"))
	s.WaitAlive(5 * time.Second)
	syn := func(p Packet) bool { return p.Flags&SYN != 0 && p.DstPort == 8 }
	Eventually(t, 5*time.Second, "a SYN", func() error { return That(len(c.Packets(syn)) > 0, "none") })
	got := c.Packets(syn)[0]
	if age := time.Since(got.Time); age < 0 || age > 10*time.Second {
		t.Errorf("time of the packet is %v ago", age)
	}
	got.Time, got.Len, got.SrcPort = time.Time{}, 0, 0
	want := Packet{
		Dev: "a0", Out: true, Src: netip.MustParseAddr("2001:db8::1"), Dst: netip.MustParseAddr("2001:db8::2"),
		Proto: 6, TTL: 64, DstPort: 8, Flags: SYN,
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("packet (-want +got):\n%s", diff)
	}
}

// TestNothingOutlivesTheTestProcess runs a lab in a second test process, kills
// that, and looks for its processes.
func TestNothingOutlivesTheTestProcess(t *testing.T) {
	const marker = "VIPSPEAKER_LAB_VICTIM"
	if os.Getenv(marker) != "" {
		l := Start(t, "../vipa")
		var pids []int
		for _, n := range l.order {
			pids = append(pids, n.pid)
			for _, d := range n.daemons {
				pids = append(pids, d.PID)
			}
		}
		fmt.Println("pids", strings.Trim(fmt.Sprint(pids), "[]")) //nolint:forbidigo // the other process reads it
		select {}
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), marker+"=1")
	var out syncBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []string
	Eventually(t, 30*time.Second, "the lab runs", func() error {
		for line := range strings.Lines(out.String()) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "pids" && strings.HasSuffix(line, "\n") {
				pids = f[1:]
			}
		}
		return That(len(pids) > 0, "%s", out.String())
	})
	if len(pids) < 9 {
		t.Errorf("pids %v: want those of 6 nodes and 4 daemons", pids)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	Eventually(t, 10*time.Second, "all processes ended", func() error {
		for _, pid := range pids {
			if _, err := os.Stat("/proc/" + pid + "/ns/net"); err == nil {
				return fmt.Errorf("%s still runs", pid)
			}
		}
		return nil
	})
}
