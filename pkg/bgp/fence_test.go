package bgp

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"vipspeaker/test/stopwatch"
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
	p.await(patience, hasPrefix("[+10.100.0.2/32"))
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

// undisturbed plays a round, and another one where it failed and the machine had
// stood still meanwhile: a process that cannot withdraw in time has to end itself,
// whoever is to blame.
func undisturbed(t *testing.T, round func(t *testing.T) error) {
	t.Helper()
	watch := stopwatch.Start(t)
	for n := 1; ; n++ {
		began, ran := time.Now(), watch.Elapsed()
		err := round(t)
		if err == nil {
			return
		}
		lost := time.Since(began) - (watch.Elapsed() - ran)
		if lost < fenceBound/2 || n == 10 {
			t.Fatalf("round %d, in which the machine stood still for %s: %v", n, lost, err)
		}
		t.Logf("round %d counts for nothing, because the machine stood still for %s: %v", n, lost, err)
	}
}

// awaitOrEnd collects what comes until something begins so.
func (p *rawPeer) awaitOrEnd(prefix string) ([]string, error) {
	p.t.Helper()
	all := p.await(patience, func(all []string) bool { return hasPrefix(prefix)(all) || p.ended() != nil })
	if !hasPrefix(prefix)(all) {
		return nil, fmt.Errorf("the connection ended (%w) before %q, after %q", p.ended(), prefix, all)
	}
	return all, nil
}

// A fenced path ends at its time without a word from the daemon, which may be
// stopped; the others stay. A later end brings it back.
func TestFence(t *testing.T) { undisturbed(t, fence) }

func fence(t *testing.T) error {
	t.Helper()
	proc, p := fencedPair(t)
	const life = time.Second
	first := bootTime() + life
	tell(t, proc, message{Fence: &fenceMessage{Until: first}})
	if _, err := p.awaitOrEnd("[+10.100.0.1/32"); err != nil {
		return err
	}
	end := first + life
	tell(t, proc, message{Fence: &fenceMessage{Until: end}}) // renewed
	var got []string
	late := time.Duration(0) // what ran since the end
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for len(got) == 0 {
		<-tick.C
		got = p.seen()
		switch now := bootTime(); {
		case len(got) > 0 && now < end:
			return fmt.Errorf("%q comes %s before the end", got, end-now)
		case now >= end:
			late += time.Millisecond
		}
		if late > fenceBound {
			return fmt.Errorf("%q comes more than %s after the end, connection ended: %t", got, fenceBound, p.ended() != nil)
		}
	}
	if diff := cmp.Diff([]string{"[-10.100.0.1/32]"}, got); diff != "" {
		return fmt.Errorf("messages (-want +got):\n%s", diff)
	}
	t.Logf("withdrawn %s after the end", late)
	if got := p.quiet(2 * fenceBound); got != nil || p.ended() != nil {
		return fmt.Errorf("then the router got %q, connection ended: %t", got, p.ended() != nil)
	}
	tell(t, proc, message{Fence: &fenceMessage{Until: bootTime() + time.Minute}})
	if _, err := p.awaitOrEnd("[+10.100.0.1/32"); err != nil {
		return err
	}
	tell(t, proc, message{Fence: &fenceMessage{Until: 1}}) // over at once
	_, err := p.awaitOrEnd("[-10.100.0.1/32")
	return err
}

// A process that was stopped until after the end withdraws first of all when it
// goes on.
func TestFenceStopped(t *testing.T) { undisturbed(t, fenceStopped) }

func fenceStopped(t *testing.T) error {
	t.Helper()
	proc, p := fencedPair(t)
	end := bootTime() + time.Second
	tell(t, proc, message{Fence: &fenceMessage{Until: end}})
	if _, err := p.awaitOrEnd("[+10.100.0.1/32"); err != nil {
		return err
	}
	if err := syscall.Kill(proc.cmd.Process.Pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// Its threads run on until each of them has seen the signal.
	if err := unix.Waitid(unix.P_PID, proc.cmd.Process.Pid, nil, unix.WSTOPPED, nil); err != nil {
		t.Fatal(err)
	}
	if now := bootTime(); now >= end {
		return fmt.Errorf("stopped %s after the end", now-end)
	}
	// What the daemon wants meanwhile comes after it.
	tell(t, proc, message{Paths: &pathsMessage{Seq: 3, Set: []Path{path4(3)}}})
	if got := p.quiet(end - bootTime() + 200*time.Millisecond); got != nil {
		t.Errorf("a stopped process sent %q", got)
	}
	began := time.Now()
	if err := syscall.Kill(proc.cmd.Process.Pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	got, err := p.awaitOrEnd("[+10.100.0.3/32")
	if err != nil {
		return err
	}
	t.Logf("went on after %s", time.Since(began))
	if len(got) != 2 || got[0] != "[-10.100.0.1/32]" {
		t.Errorf("messages %q, want the withdraw first", got)
	}
	return nil
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

// All that is gone in time is enough, also where a machine that stood still shows it
// together with the end of that time.
func TestFenceWithdrawnBeforeAStandstill(t *testing.T) {
	t.Parallel()
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			w := &worker{log: slog.New(slog.DiscardHandler), fence: 1, die: func(err error) { t.Error(err) }}
			go func() {
				time.Sleep(fenceBound - time.Nanosecond)
				w.mu.Lock()
				defer w.mu.Unlock()
				w.swept = 1
			}()
			w.sweep(t.Context(), 1)
		})
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
