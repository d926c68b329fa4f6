package topologies

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// The files by which a hook tells, and by which the service of host a is well.
const (
	hookNotes = "/run/notes"
	wellFile  = "/run/well"
)

// withHooks is the configuration of host a: a VIP with one owner that tells all of
// its events, and others whose commands hang, fail or never stop talking.
func withHooks() string {
	note := `[/bin/sh, -c, 'echo "$VIPSPEAKER_EVENT $VIPSPEAKER_VIP $VIPSPEAKER_ADDRESS ${VIPSPEAKER_REASON:--} [$VIPSPEAKER_INTERFACES] ${VIPSPEAKER_OWNER:--} ${VIPSPEAKER_EPOCH:--}" >>` + hookNotes + `']`
	var on []string
	for _, event := range []string{"announced", "withdrawn", "bound", "unbound", "owner", "lost"} {
		on = append(on, event+": "+note)
	}
	text := movable("a", "exclusive: true", "role: {rank: 1, failback: manual}",
		"checks: [{exec: {command: [/bin/ls, "+wellFile+"]}, interval: 1s, timeout: 1s, fall: 2, rise: 1}]", "on: {"+strings.Join(on, ", ")+"}")
	return strings.Replace(text, "shutdown:", `  - {name: hangs, address: 10.68.6.2, on: {timeout: 4s, bound: [/bin/sh, -c, 'sleep 1000 & sleep 1000'], announced: [/usr/bin/env]}}
  - {name: fails, address: 10.68.6.3, on: {bound: [/bin/sh, -c, 'echo no; exit 3'], announced: [/no/such/program]}}
  - {name: floods, address: 10.68.6.4, on: {timeout: 1s, bound: [/usr/bin/yes, much]}}
shutdown:`, 1)
}

// notes reads what the hooks of a host tell.
type notes struct {
	m    *mobility
	seen int
}

// told waits until the hooks have told this since the last call, and returns the
// epoch in the last line. A * stands for any word.
func (n *notes) told(want ...string) (epoch int) {
	n.m.t.Helper()
	lab.Eventually(n.m.t, 20*time.Second, "told", func() error {
		data, _ := os.ReadFile(n.m.l.Node("a").Path(hookNotes))
		lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")[n.seen:]
		same := len(lines) == len(want)
		for i := 0; same && i < len(lines); i++ {
			have, words := strings.Fields(lines[i]), strings.Fields(want[i])
			for same = len(have) == len(words); len(words) > 0 && same; have, words = have[1:], words[1:] {
				same = words[0] == "*" || words[0] == have[0]
				epoch, _ = strconv.Atoi(have[0])
			}
		}
		return lab.That(same, "%q\nwant %q", lines, want)
	})
	n.seen += len(want)
	return epoch
}

// TestHooks: what a user's commands are told of a VIP with one owner, through all
// that can become of it; and that commands which hang, fail or flood are ended,
// logged in short and hold nobody up.
func TestHooks(t *testing.T) {
	t.Parallel()
	m := startMobility(t)
	m.startEtcd()
	a := m.l.Node("a")
	a.WriteFile(wellFile, "")
	a.WriteFile(lab.ConfigPath, withHooks())
	path := binary(t) // which takes a while to build
	began := time.Now()
	m.hosts["a"] = lab.StartSpeaker(a, path)
	n := &notes{m: m}
	const vipa = " vipa 10.68.6.1/32 "
	first := n.told("owner"+vipa+"* * a *", "bound"+vipa+"* * a *", "announced"+vipa+"- [en1] a *")
	log := m.hosts["a"].Log
	if why := lab.Busy(began, time.Now(), 500*time.Millisecond); strings.Contains(log(), "killed after 4s") && why == "" {
		t.Error("the command that hangs has held the others up")
	}
	m.commandsEnd(log, began)

	m.start("b", "exclusive: true", "role: {rank: 2, failback: manual}")
	ready := func(v *status.VIP) bool { return len(v.Role.Ready) == 2 }
	m.gate("b", "is ready", ready)
	// The check fails, so the next in rank takes over.
	if err := os.Remove(a.Path(wellFile)); err != nil {
		t.Fatal(err)
	}
	n.told("withdrawn"+vipa+"check_failed [] * *", "lost"+vipa+"given_up [] * *", "unbound"+vipa+"check_failed [] * *")
	m.gate("b", "owns it", announcedVIP)
	a.WriteFile(wellFile, "")
	m.gate("a", "is ready", ready)
	// It is handed over, and back.
	m.hand("a")
	second := n.told("bound"+vipa+"* * b *", "announced"+vipa+"- [en1] b *", "owner"+vipa+"- [en1] a *")
	m.hand("b")
	n.told("lost"+vipa+"handed_over * b *", "withdrawn"+vipa+"not_owner [] b *", "unbound"+vipa+"not_owner [] b *")
	m.hand("a")
	third := n.told("bound"+vipa+"* * b *", "announced"+vipa+"- [en1] b *", "owner"+vipa+"- [en1] a *")
	if first <= 0 || second <= first || third <= second {
		t.Errorf("epochs %d, %d, %d", first, second, third)
	}
	// It is cut off from etcd.
	m.l.DropFrames("a", "mg")
	n.told("lost"+vipa+"lease_ended * * *", "withdrawn"+vipa+"not_owner [] * *", "unbound"+vipa+"not_owner [] * *")
	m.gate("b", "owns it", announcedVIP)
	m.l.PassFrames("a", "mg")
	m.gate("a", "is ready", ready)
	m.hand("a")
	n.told("bound"+vipa+"* * b *", "announced"+vipa+"- [en1] b *", "owner"+vipa+"- [en1] a *")
	m.hosts["a"].Signal(syscall.SIGTERM)
	n.told("withdrawn"+vipa+"shutdown [] a *", "lost"+vipa+"given_up [] - -", "unbound"+vipa+"* [] - -")
}

// hand has the VIP handed over, once nothing of the handover before is left.
func (m *mobility) hand(to string) {
	m.t.Helper()
	lab.Eventually(m.t, 10*time.Second, "the order is taken", func() error {
		_, err := m.hosts["b"].Command("move", "vipa", "--to", to)
		return err
	})
}

// commandsEnd waits until host a has logged the end of the commands that do not
// end well.
func (m *mobility) commandsEnd(log func() string, began time.Time) {
	m.t.Helper()
	lab.Eventually(m.t, 20*time.Second, "all commands have ended", func() error {
		for _, want := range []string{
			`msg="hook failed" vip=hangs event=bound command=/bin/sh`, `error="killed after 4s"`,
			`msg="hook ran" vip=hangs event=announced command=/usr/bin/env`,
			`msg="hook failed" vip=fails event=bound command=/bin/sh`, `output=no error="exit status 3"`,
			`msg="hook failed" vip=fails event=announced command=/no/such/program`,
			`msg="hook failed" vip=floods event=bound command=/usr/bin/yes`, `output="much much `, `error="killed after 1s"`,
		} {
			if n := strings.Count(log(), want); n != 1 {
				return lab.That(false, "%d times in the log: %s", n, want)
			}
		}
		return nil
	})
	for line := range strings.Lines(log()) {
		if strings.Contains(line, `msg="hook `) && len(line) > 3<<10 {
			m.t.Errorf("a line of %d bytes: %.200s", len(line), line)
		}
		if _, env, ok := strings.Cut(line, "command=/usr/bin/env"); ok {
			for _, name := range regexp.MustCompile(`[A-Z_]+=`).FindAllString(env, -1) {
				if name != "PATH=" && !strings.HasPrefix(name, "VIPSPEAKER_") {
					m.t.Errorf("in the environment: %s", name)
				}
			}
		}
	}
	for vip, limit := range map[string]time.Duration{"hangs": 4 * time.Second, "floods": time.Second} {
		took, err := time.ParseDuration(wordAfter(lineWith(log(), `msg="hook failed" vip=`+vip+" "), "took="))
		if err != nil || took < limit {
			m.t.Errorf("%s: killed after %v, want %v: %v", vip, took, limit, err)
		}
		lab.Within(m.t, vip+": the end of its command", began, took, limit+time.Second)
	}
	// They have been told to end, which takes a processor.
	lab.Eventually(m.t, 10*time.Second, "nothing goes on that a command has started", func() error {
		out, err := m.l.Node("a").Try("pgrep", "-f", "sleep 1000", "--ns", strconv.Itoa(m.hosts["a"].PID), "--nslist", "net")
		return lab.That(err != nil, "%s", out)
	})
	m.hosts["a"].WaitStatus(5*time.Second, "everything is announced", lab.Established)
}

// wordAfter is the word that follows a text in a line.
func wordAfter(line, text string) string {
	_, rest, _ := strings.Cut(line, text)
	word, _, _ := strings.Cut(rest, " ")
	return word
}
