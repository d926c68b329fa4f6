package lab

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Machines stand still for a moment now and then, all processes at once, and lend
// their processors to others. What that does to a daemon is no news about the daemon,
// so a lab notes it: waits count the time that the machine gave (Eventually), and
// figures that were measured while it gave little are not judged (Within).

const (
	// watchStep is how often the machine is looked at, and heldUp what is a stall: an
	// ordinary thread that wanted to run had to wait that long more.
	watchStep = 2 * time.Millisecond
	heldUp    = 5 * time.Millisecond
	// loadStep is how often it is asked how many threads want to run.
	loadStep = 20 * time.Millisecond
	// crowded is how many may want each processor all the time, before the figures of a
	// daemon are those of the crowd. The tests themselves make it two or three.
	crowded = 4
)

// stall is a time in which the machine ran nothing that was ours.
type stall struct{ from, to time.Time }

// loadPoint says how many threads wanted each processor until then.
type loadPoint struct {
	at    time.Time
	share float64
}

// machineWatch is what is known of this machine.
type machineWatch struct {
	start sync.Once

	mu     sync.Mutex
	stalls []stall
	loads  []loadPoint
	// given is the time that the machine gave to each who wanted it.
	given time.Duration
}

var machine machineWatch //nolint:gochecknoglobals // there is one

// watched is the watch, which goes on as long as the process.
func watched() *machineWatch {
	machine.start.Do(func() { go machine.run() })
	return &machine
}

func (w *machineWatch) run() {
	// What is held up is a thread, as those of the daemons are.
	runtime.LockOSThread()
	loadavg, err := os.Open("/proc/loadavg")
	if err == nil {
		defer loadavg.Close() //nolint:errcheck // it is only read
	}
	share, asked := 1.0, time.Time{}
	step := unix.NsecToTimespec(int64(watchStep))
	for last := time.Now(); ; {
		_ = unix.Nanosleep(&step, nil) // a signal ends it sooner
		now := time.Now()
		if now.Sub(asked) >= loadStep && err == nil {
			share, asked = wanting(loadavg), now
			w.add(loadPoint{now, share})
		}
		w.saw(last, now, share)
		last = now
	}
}

// wanting is how many threads of all want each processor, besides the one that asks.
func wanting(loadavg *os.File) float64 {
	var buf [128]byte
	n, _ := loadavg.ReadAt(buf[:], 0)
	return parseWanting(buf[:n]) / float64(runtime.NumCPU())
}

// parseWanting reads "0.20 0.18 0.12 3/80 11206" (proc_loadavg(5)).
func parseWanting(text []byte) float64 {
	if words := bytes.Fields(text); len(words) > 3 {
		running, _, _ := bytes.Cut(words[3], []byte("/"))
		if n, err := strconv.Atoi(string(running)); err == nil {
			return float64(n - 1)
		}
	}
	return 0
}

func (w *machineWatch) add(p loadPoint) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loads = append(w.loads, p)
}

// saw notes that the watch ran at these two times and not between them.
func (w *machineWatch) saw(last, now time.Time, share float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	took := now.Sub(last)
	if took >= watchStep+heldUp {
		w.stalls = append(w.stalls, stall{last.Add(watchStep), now})
		took = watchStep
	}
	w.given += time.Duration(float64(took) / max(1, share))
}

// spent is all the time that the machine gave so far.
func (w *machineWatch) spent() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.given
}

// stood is the longest stall that was between two times, even in part, and how long
// all of them were.
func (w *machineWatch) stood(from, to time.Time) (longest, sum time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.stalls {
		if s.from.Before(to) && s.to.After(from) {
			longest, sum = max(longest, s.to.Sub(s.from)), sum+s.to.Sub(s.from)
		}
	}
	return longest, sum
}

// load is how many threads wanted each processor between two times, on average.
func (w *machineWatch) load(from, to time.Time) float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	sum, n := 0.0, 0
	for _, p := range w.loads {
		if p.at.After(from) && p.at.Before(to.Add(loadStep)) {
			sum, n = sum+p.share, n+1
		}
	}
	return sum / max(1, float64(n))
}

// Stalled is the longest time between two times in which this machine kept a thread
// waiting that wanted to run. It begins to be known when the first lab starts.
func Stalled(from, to time.Time) time.Duration {
	longest, _ := watched().stood(from, to)
	return longest
}

// Busy says what this machine did between two times that a daemon cannot answer for:
// it stood still for more than a time that would not matter, or more threads wanted
// to run than a figure can bear. It is empty where a daemon had the time it needs.
func Busy(from, to time.Time, matters time.Duration) string {
	w := watched()
	if d, _ := w.stood(from, to); d > matters {
		return fmt.Sprintf("the machine stood still for %v", round(d))
	}
	if n := w.load(from, to); n > crowded {
		return fmt.Sprintf("%.1f threads wanted each processor", n)
	}
	return ""
}

// Within fails the test when something took longer than the limit, in the time since
// it began. A figure is not judged when the machine was Busy in that time, or just
// before, for a tenth of the limit, or when all of its stalls are what is too much: it
// is told, and that it says nothing.
func Within(tb testing.TB, what string, began time.Time, took, limit time.Duration) {
	tb.Helper()
	within(tb, what, began, time.Now(), took, limit)
}

func within(tb testing.TB, what string, began, ended time.Time, took, limit time.Duration) {
	tb.Helper()
	if took <= limit {
		return
	}
	// What was held up before is still behind.
	before := began.Add(-limit / 2)
	why := Busy(before, ended, limit/10)
	if _, sum := watched().stood(before, ended); why == "" && took-sum <= limit {
		why = fmt.Sprintf("the machine stood still for %v in all", round(sum))
	}
	if why != "" {
		tb.Logf("%s took %v, limit %v: it is not judged, for %s", what, round(took), limit, why)
		return
	}
	tb.Errorf("%s took %v, limit %v", what, round(took), limit)
}

// Pass waits until the machine has given that time to each who wanted it, from now on:
// what others had to do now, and needs less, they have done then.
func Pass(d time.Duration) {
	w := watched()
	tick := time.NewTicker(watchStep)
	defer tick.Stop()
	for end := w.spent() + d; w.spent() < end; {
		<-tick.C
	}
}

// longestWait is how much longer by the clock a wait may last than it says.
const longestWait = 40 * time.Second

// Eventually calls ok until it returns nil and fails the test when it still does
// not after d of the time that this machine gives: a moment in which it stands still
// does not count, and where several threads want each processor time counts less.
func Eventually(tb testing.TB, d time.Duration, what string, ok func() error) {
	tb.Helper()
	w := watched()
	began, before := time.Now(), w.spent()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		// Read before the look, which so has all of the time.
		over := w.spent()-before > d || time.Since(began) > d+longestWait
		err := ok()
		if err == nil {
			return
		}
		if over {
			tb.Fatalf("%s: not within %v (%v by the clock): %v", what, d, round(time.Since(began)), err)
		}
		<-tick.C
	}
}
