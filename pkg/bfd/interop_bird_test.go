package bfd

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

const (
	birdDir    = "/run/bird"
	birdConf   = birdDir + "/bird.conf"
	birdSocket = birdDir + "/bird.ctl"
)

// birdRouter is BIRD 2 with one BFD protocol.
type birdRouter struct {
	w       *world
	process *daemon
	peers   []remote
}

func newBIRD(w *world) router {
	w.t.Helper()
	if err := os.MkdirAll(birdDir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	return &birdRouter{w: w}
}

// text is BIRD's configuration. Its options belong to interfaces (or to all
// multihop sessions), so the last peer's are everybody's.
func (b *birdRouter) text() string {
	var options, neighbors string
	for _, p := range b.peers {
		idle := time.Second
		if p.auth != nil {
			idle /= 5 // to be refused more often
		}
		options = fmt.Sprintf("min rx interval %d ms; min tx interval %d ms; idle tx interval %d ms; multiplier %d;",
			p.minRx.Milliseconds(), p.minTx.Milliseconds(), idle.Milliseconds(), p.times)
		if p.passive {
			options += " passive on;"
		}
		if p.auth != nil {
			options += fmt.Sprintf(" authentication %s; password %q { id %d; };", birdAuth(p.auth.Type), string(p.auth.Key), p.auth.KeyID)
		}
		if p.multihop {
			neighbors += fmt.Sprintf("  neighbor %s local %s multihop on;\n", p.local, p.peer)
		} else {
			neighbors += fmt.Sprintf("  neighbor %s dev \"wan\" local %s;\n", p.local, p.peer)
		}
	}
	return fmt.Sprintf(`log stderr all;
router id 10.68.1.2;
protocol device { scan time 1; }
protocol bfd bfd1 {
  interface "*" { %[1]s };
  multihop { %[1]s };
%[2]s}
`, options, neighbors)
}

func birdAuth(t AuthType) string {
	return map[AuthType]string{
		SimplePassword: "simple", KeyedMD5: "keyed md5", MeticulousKeyedMD5: "meticulous keyed md5",
		KeyedSHA1: "keyed sha1", MeticulousKeyedSHA1: "meticulous keyed sha1",
	}[t]
}

func (b *birdRouter) birdc(command string) (string, error) {
	out, err := exec.CommandContext(b.w.t.Context(), "birdc", "-s", birdSocket, command).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("birdc %s: %w: %s", command, err, out)
	}
	return string(out), nil
}

func (b *birdRouter) configure(peers ...remote) {
	b.w.t.Helper()
	b.peers = peers
	if err := os.WriteFile(birdConf, []byte(b.text()), 0o600); err != nil {
		b.w.t.Fatal(err)
	}
	if b.process == nil {
		b.start()
		return
	}
	if out, err := b.birdc("configure"); err != nil || !strings.Contains(out, "Reconfigured") {
		b.w.t.Fatalf("configure: %v: %s", err, out)
	}
}

func (b *birdRouter) start() {
	b.w.t.Helper()
	b.process = b.w.daemonize("bird", []string{birdSocket}, "bird", "-f", "-c", birdConf, "-s", birdSocket)
}

func (b *birdRouter) kill() { b.process.kill() }

func (b *birdRouter) shut(down bool) {
	b.w.t.Helper()
	word := "enable"
	if down {
		word = "disable"
	}
	if out, err := b.birdc(word + " bfd1"); err != nil {
		b.w.t.Fatal(err, out)
	}
}

// view reads lines such as
// "10.68.1.1  wan  Up  12:00:00.000  0.050  0.150".
func (b *birdRouter) view(local netip.Addr) (theirs, error) {
	out, err := b.birdc("show bfd sessions")
	if err != nil {
		return theirs{}, err
	}
	f, ok := fields(out, local.String())
	if !ok || len(f) < 6 {
		return theirs{}, fmt.Errorf("bird has no session %s: %s", local, out)
	}
	v := theirs{Status: SessionStatus(f[2])}
	for i, d := range []*time.Duration{&v.Interval, &v.DetectAfter} {
		seconds, err := strconv.ParseFloat(f[4+i], 64)
		if err != nil {
			return theirs{}, fmt.Errorf("show bfd sessions: %w: %s", err, out)
		}
		*d = time.Duration(seconds*1000) * time.Millisecond
	}
	return v, nil
}
