package lab

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestParseWanting(t *testing.T) {
	for text, want := range map[string]float64{"0.20 0.18 0.12 3/80 11206\n": 2, "0.20 0.18 0.12 1/80 11206\n": 0, "": 0, "a b c d": 0} {
		if got := parseWanting([]byte(text)); got != want {
			t.Errorf("%q: %v threads, want %v", text, got, want)
		}
	}
}

// What the machine did not give does not count, and is known.
func TestMachineWatch(t *testing.T) {
	w := &machineWatch{}
	at := time.Now()
	began := at
	run := func(n int, share float64) {
		for range n {
			w.saw(at, at.Add(watchStep), share)
			at = at.Add(watchStep)
			w.add(loadPoint{at, share})
		}
	}
	run(500, 1)
	if w.given != time.Second {
		t.Errorf("a second on a calm machine is %v", w.given)
	}
	calm := at
	w.saw(at, at.Add(watchStep+600*time.Millisecond), 1)
	at = at.Add(watchStep + 600*time.Millisecond)
	if w.given != time.Second+watchStep {
		t.Errorf("a stall of 600 ms counts %v", w.given-time.Second)
	}
	stood := at
	run(500, 5)
	if want := time.Second + watchStep + 200*time.Millisecond; w.given != want {
		t.Errorf("a second that five want is %v, want %v", w.given-time.Second-watchStep, want-time.Second-watchStep)
	}
	for _, tt := range []struct {
		from, to time.Time
		longest  time.Duration
		load     float64
	}{
		{began, calm, 0, 1},
		{began, at, 600 * time.Millisecond, 3},
		{calm.Add(300 * time.Millisecond), calm.Add(400 * time.Millisecond), 600 * time.Millisecond, 0},
		{stood.Add(loadStep), at, 0, 5},
	} {
		if d, _ := w.stood(tt.from, tt.to); d != tt.longest {
			t.Errorf("longest stall %v, want %v", d, tt.longest)
		}
		if n := w.load(tt.from, tt.to); n < tt.load-0.1 || n > tt.load+0.1 {
			t.Errorf("load %v, want %v", n, tt.load)
		}
	}
}

// judged is a test that notes what is said.
type judged struct {
	testing.TB

	errors, logs string
}

func (*judged) Helper()                          {}
func (j *judged) Errorf(format string, a ...any) { j.errors += fmt.Sprintf(format, a...) }
func (j *judged) Logf(format string, a ...any)   { j.logs += fmt.Sprintf(format, a...) }
func (j *judged) Fatalf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }

// A figure above its limit fails a test on a calm machine, and on no other.
func TestWithin(t *testing.T) {
	// Times at which there was no watch, so that nothing of this machine is in them.
	calm := time.Now().Add(-time.Hour)
	j := &judged{}
	within(j, "it", calm, calm.Add(time.Second), time.Second, time.Second)
	if j.errors+j.logs != "" {
		t.Errorf("within the limit: %+v", j)
	}
	within(j, "it", calm, calm.Add(2*time.Second), time.Second+time.Millisecond, time.Second)
	if j.errors != "it took 1.001s, limit 1s" || j.logs != "" {
		t.Errorf("above the limit: %+v", j)
	}
	stood := calm.Add(10 * time.Minute)
	w, often := watched(), calm.Add(30*time.Minute)
	w.mu.Lock()
	w.stalls = append(w.stalls, stall{stood, stood.Add(101 * time.Millisecond)})
	for at := often; at.Before(often.Add(600 * time.Millisecond)); at = at.Add(200 * time.Millisecond) {
		w.stalls = append(w.stalls, stall{at, at.Add(90 * time.Millisecond)})
	}
	w.mu.Unlock()
	for took, want := range map[time.Duration]bool{1270 * time.Millisecond: false, 1271 * time.Millisecond: true} {
		j = &judged{}
		if within(j, "it", often, often.Add(2*time.Second), took, time.Second); (j.errors != "") != want {
			t.Errorf("%v with three stalls of 90 ms: %+v", took, j)
		}
	}
	for _, tt := range []struct {
		began  time.Time
		judged bool
	}{{stood.Add(-time.Second), false}, {stood.Add(400 * time.Millisecond), false}, {stood.Add(700 * time.Millisecond), true}} {
		j = &judged{}
		if within(j, "it", tt.began, tt.began.Add(2*time.Second), 2*time.Second, time.Second); (j.errors != "") != tt.judged || !tt.judged && !strings.Contains(j.logs, "stood still for 101ms") {
			t.Errorf("%v from a stall: %+v", tt.began.Sub(stood), j)
		}
	}
}

func TestPass(t *testing.T) {
	began := time.Now()
	Pass(20 * time.Millisecond)
	// The watch may have been about to add a step.
	if took := time.Since(began); took < 20*time.Millisecond-watchStep-heldUp {
		t.Errorf("20 ms have passed after %v", took)
	}
}

// A wait ends with what it waits for, or with its time.
func TestEventually(t *testing.T) {
	n := 0
	Eventually(t, 20*time.Second, "three looks", func() error {
		n++
		return That(n == 3, "%d", n)
	})
	defer func() {
		if text := fmt.Sprint(recover()); !strings.HasPrefix(text, "nothing: not within 50ms (") || !strings.HasSuffix(text, "by the clock): never") {
			t.Errorf("it says %q", text)
		}
	}()
	Eventually(&judged{}, 50*time.Millisecond, "nothing", func() error { return That(false, "never") })
}
