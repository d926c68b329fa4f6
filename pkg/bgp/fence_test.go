package bgp

import (
	"errors"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// fencedPair is a speaker process with a fenced and another path, and its router.
func fencedPair(t *testing.T) (*process, *rawPeer) {
	t.Helper()
	host, router := addr(t), addr(t)
	cfg := conf("en1", 65010, host, peer(router, 65001))
	cfg.Paths = []Path{path4(1), path4(2)}
	cfg.Paths[0].Fenced = true
	proc := startByHand(t, helloMessage{}, cfg)
	p := dialRaw(t, router, host, 65001, rawOptions{})
	p.await(2*time.Second, hasPrefix("[+10.100.0.2/32"))
	if got := p.quiet(50 * time.Millisecond); slices.ContainsFunc(got, func(s string) bool { return s == "[+10.100.0.1/32]" }) {
		t.Fatalf("announced without a fence: %q", got)
	}
	return proc, p
}

func tell(t *testing.T, proc *process, m message) {
	t.Helper()
	if err := writeMessage(proc.conn, m); err != nil {
		t.Fatal(err)
	}
}

// A fenced path ends at its time without a word from the daemon, which may be
// stopped; the others stay. A later end brings it back.
func TestFence(t *testing.T) {
	proc, p := fencedPair(t)
	const life = 400 * time.Millisecond
	began := time.Now()
	tell(t, proc, message{Fence: &fenceMessage{Until: bootTime() + life}})
	p.await(time.Second, hasPrefix("[+10.100.0.1/32"))
	tell(t, proc, message{Fence: &fenceMessage{Until: bootTime() + 2*life}}) // renewed
	got := p.await(3*life, hasPrefix("[-"))
	took := time.Since(began)
	if diff := cmp.Diff([]string{"[-10.100.0.1/32]"}, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	t.Logf("withdrawn %s after the end", took-2*life)
	if took < 2*life-50*time.Millisecond || took > 2*life+fenceBound {
		t.Errorf("withdrawn after %s, want %s", took, 2*life)
	}
	if got := p.quiet(2 * fenceBound); got != nil || p.ended() != nil {
		t.Errorf("then the router got %q, %v", got, p.ended())
	}
	tell(t, proc, message{Fence: &fenceMessage{Until: bootTime() + time.Minute}})
	p.await(time.Second, hasPrefix("[+10.100.0.1/32"))
	tell(t, proc, message{Fence: &fenceMessage{Until: 1}}) // over at once
	p.await(time.Second, hasPrefix("[-10.100.0.1/32"))
}

// A process that was stopped until after the end withdraws first of all when it
// goes on.
func TestFenceStopped(t *testing.T) {
	proc, p := fencedPair(t)
	tell(t, proc, message{Fence: &fenceMessage{Until: bootTime() + 300*time.Millisecond}})
	p.await(time.Second, hasPrefix("[+10.100.0.1/32"))
	if err := syscall.Kill(proc.cmd.Process.Pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// Its threads run on until each of them has seen the signal.
	if err := unix.Waitid(unix.P_PID, proc.cmd.Process.Pid, nil, unix.WSTOPPED, nil); err != nil {
		t.Fatal(err)
	}
	// What the daemon wants meanwhile comes after it.
	tell(t, proc, message{Paths: &pathsMessage{Seq: 3, Set: []Path{path4(3)}}})
	if got := p.quiet(500 * time.Millisecond); got != nil {
		t.Errorf("a stopped process sent %q", got)
	}
	began := time.Now()
	if err := syscall.Kill(proc.cmd.Process.Pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	got := p.await(2*time.Second, hasPrefix("[+10.100.0.3/32"))
	t.Logf("went on after %s", time.Since(began))
	if len(got) != 2 || got[0] != "[-10.100.0.1/32]" {
		t.Errorf("messages %q, want the withdraw first", got)
	}
}

// A process that does not get rid of its fenced paths ends itself.
func TestFenceCannotWithdraw(t *testing.T) {
	t.Parallel()
	died := make(chan error, 1)
	w := &worker{log: testLog(t), fence: 1, die: func(err error) { died <- err }}
	w.sweep(t.Context(), 1)
	select {
	case err := <-died:
		if !errors.Is(err, errFence) {
			t.Errorf("died of %v", err)
		}
	default:
		t.Error("lives on with its paths")
	}
	w.swept = 1
	w.sweep(t.Context(), 1)
	if len(died) > 0 {
		t.Error("died although all was withdrawn")
	}
}

// An end that is over is swept once, and again only if something could have been
// announced since.
func TestFenceOverAgain(t *testing.T) {
	t.Parallel()
	var w worker
	w.setFence(1)
	if w.swept != w.fence {
		t.Error("a process that never announced sweeps")
	}
	w.setFence(bootTime() + time.Minute)
	w.setFence(2)
	if w.swept == w.fence {
		t.Error("nobody guards what was announced")
	}
	w.setFence(1)
	if w.swept == w.fence {
		t.Error("the guard is off before all was withdrawn")
	}
}

// Whether the fence is over is judged once for the paths and for what is noted of
// them: if it ended in between, nobody would take them back.
func TestFenceOneMoment(t *testing.T) {
	t.Parallel()
	fenced := path4(1)
	fenced.Fenced = true
	w := &worker{fence: 100, paths: map[pathKey]Path{fenced.key(): fenced}}
	for now, want := range map[time.Duration]struct {
		paths int
		over  time.Duration
	}{99: {1, 0}, 100: {0, 100}, 101: {0, 100}} {
		if list, over := w.standing(now); len(list) != want.paths || over != want.over {
			t.Errorf("at %d: %d paths, over %d, want %d and %d", now, len(list), over, want.paths, want.over)
		}
	}
}

// What must go is told before a later end, which is for the rest only.
func TestFenceOrder(t *testing.T) {
	t.Parallel()
	a, b := path4(1), path4(2)
	a.Fenced, b.Fenced = true, true
	process := told{paths: map[pathKey]Path{}}
	var got []message
	drive := func(rev uint64, cfg SpeakerConfig) {
		for m, more := process.next(cfg, rev); more; m, more = process.next(cfg, rev) {
			got = append(got, m)
		}
	}
	cfg := SpeakerConfig{Name: "en1", Paths: []Path{a, b}, Fence: 1}
	drive(1, cfg)
	got = nil
	cfg.Paths, cfg.Fence = []Path{b}, 2
	drive(2, cfg)
	if len(got) != 2 || got[0].Paths == nil || len(got[0].Paths.Delete) != 1 || got[1].Fence == nil || got[1].Fence.Until != 2 {
		t.Errorf("told %+v", got)
	}
	got = nil
	cfg.Fence = 3
	drive(3, cfg)
	if len(got) != 1 || got[0].Fence == nil {
		t.Errorf("a renewal told %+v", got)
	}
}
