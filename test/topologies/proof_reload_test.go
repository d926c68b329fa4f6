package topologies

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// TestReloadWritesOnlyTheDifference: a reload that adds a VIP sends one UPDATE
// on each session that carries its family and writes that VIP into the kernel;
// one that changes nothing sends and writes nothing.
func TestReloadWritesOnlyTheDifference(t *testing.T) {
	t.Parallel()
	for _, present := range []int{1, 100} {
		t.Run(fmt.Sprintf("vips=%d", present), func(t *testing.T) {
			t.Parallel()
			l := lab.Start(t, "vipa")
			host := l.Node("host")
			settled(t, host)
			c := hostConfig{vips: []string{vipLine("vipa", vip4, "preferred_source: true")}}
			for i := 1; i < present; i++ {
				c.vips = append(c.vips, vipLine(fmt.Sprintf("v%d", i), prefix4(100+i)))
			}
			wire := host.Capture()
			s := startWith(t, l, c)
			s.WaitStatus(5*time.Second, "it is source everywhere", sourceOn("vipa", "en1", "en5"))
			kernel := watchNetlink(t, host)
			r := &reloads{t: t, host: host, s: s, wire: wire, kernel: kernel}

			r.expect("SIGHUP, same file", func() { s.Signal(syscall.SIGHUP) }, nil, nil)
			r.expect("command, same file", func() { reload(t, host, s, c) }, nil, nil)
			for _, more := range []netip.Prefix{prefix4(250), netip.MustParsePrefix("fd68:6::250/128")} {
				c.vips = append(c.vips, vipLine("more"+strconv.Itoa(more.Bits()), more))
				r.expect(more.String(), func() { reload(t, host, s, c) }, []string{
					fmt.Sprintf("new address %v", more),
					fmt.Sprintf("new route %v in table %d, by the kernel", more, unix.RT_TABLE_LOCAL),
					fmt.Sprintf("new rule from %v lookup 6801", more),
				}, &more)
			}
			r.expect("SIGHUP, same file again", func() { s.Signal(syscall.SIGHUP) }, nil, nil)
		})
	}
}

// reloads watches what reloads do to the host and to its sessions.
type reloads struct {
	t      *testing.T
	host   *lab.Node
	s      *lab.Speaker
	wire   *lab.Capture
	kernel *netlinkWatch
}

// expect does a reload and compares what changed in the kernel and what was sent to
// the peers: an announcement of the prefix if there is one, else nothing.
func (r *reloads) expect(what string, do func(), written []string, announced *netip.Prefix) {
	r.t.Helper()
	waitQuiet(r.t, r.wire, allPeers()...)
	before := r.s.WaitStatus(5*time.Second, "no pass is due", lab.Established)
	r.kernel.take()
	since := time.Now()
	do()
	r.s.WaitStatus(5*time.Second, what+": in force", func(st *status.Status) error {
		if st.Config.ReloadsOK != before.Config.ReloadsOK+1 {
			return fmt.Errorf("%d reloads, %s", st.Config.ReloadsOK, st.Config.Error)
		}
		return lab.Established(st)
	})
	waitQuiet(r.t, r.wire, allPeers()...)

	if diff := cmp.Diff(written, r.kernel.take(), cmpopts.EquateEmpty()); diff != "" {
		r.t.Errorf("%s: changes of the kernel (-want +got):\n%s", what, diff)
	}
	want, got := map[string][]string{}, map[string][]string{}
	if announced != nil {
		for _, peer := range peersOf(*announced) {
			want[peer.String()] = []string{fmt.Sprintf("UPDATE +[%v] -[]", announced)}
		}
	}
	for _, peer := range allPeers() {
		for _, m := range to(r.wire, peer, since, func(m lab.Message) bool { return m.Type != lab.Keepalive }) {
			got[peer.String()] = append(got[peer.String()], fmt.Sprintf("%v +%v -%v", m.Type, m.Announced, m.Withdrawn))
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Errorf("%s: sent (-want +got):\n%s", what, diff)
	}
	st, err := r.s.Status()
	if err != nil {
		r.t.Fatal(err)
	}
	if diff := cmp.Diff(uptimes(before), uptimes(st)); diff != "" {
		r.t.Errorf("%s: sessions were touched:\n%s", what, diff)
	}
	if diff := cmp.Diff(speakerPIDs(before), speakerPIDs(st)); diff != "" {
		r.t.Errorf("%s: speaker processes were touched:\n%s", what, diff)
	}
}

// sourceOn is a condition for WaitStatus.
func sourceOn(name string, interfaces ...string) func(*status.Status) error {
	return func(st *status.Status) error {
		v, err := vipNamed(st, name)
		if err != nil {
			return err
		}
		return lab.That(cmp.Equal(interfaces, v.Source), "vip %s is source on %v", name, v.Source)
	}
}

// mistakes are lines of a configuration with what is said about each.
func mistakes() map[string]string {
	return map[string]string{
		"  asn: -1":                               "bgp.asn",
		"  timers: {hold_time: 2s}":               "bgp.timers.hold_time",
		"nonsense: {}":                            "nonsense",
		"control: {socket: 7}":                    "control.socket",
		"  - {name: vipa, address: 10.68.6.1/33}": "vips[0].address",
		"  - {name: vipb, address: 10.68.6.2, interfaces: [en9]}": "vips[1].interfaces",
	}
}

// broken is a configuration file with all of these mistakes.
const broken = `bgp:
  asn: -1
  timers: {hold_time: 2s}
interfaces:
  - name: en1
    peers: [{address: 10.68.1.2, asn: 65000}]
vips:
  - {name: vipa, address: 10.68.6.1/33}
  - {name: vipb, address: 10.68.6.2, interfaces: [en9]}
nonsense: {}
control: {socket: 7}
`

// listsMistakes checks that a text names every mistake of the broken file.
func listsMistakes(t *testing.T, what, text string) {
	t.Helper()
	for line, path := range mistakes() {
		if !strings.Contains(broken, line+"\n") {
			t.Fatalf("the file has no line %q", line)
		}
		if strings.Count(text, path) != 1 {
			t.Errorf("%s: %s is named %d times in:\n%s", what, path, strings.Count(text, path), text)
		}
	}
}

// TestBadConfigurationAtStart: the daemon says all that is wrong and ends with
// exit code 1 without having touched anything.
func TestBadConfigurationAtStart(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	settled(t, host)
	host.WriteFile(lab.ConfigPath, broken)
	before, files := host.State(), host.Run("find", "/run")
	kernel, wire := watchNetlink(t, host), host.Capture()
	s := lab.StartSpeaker(host, binary(t))
	if code := s.Wait(10 * time.Second); code != 1 {
		t.Errorf("exit code %d", code)
	}
	listsMistakes(t, "standard error", s.Log())
	if diff := cmp.Diff(before, host.State()); diff != "" {
		t.Errorf("the host is not as before (-before +after):\n%s", diff)
	}
	if list := kernel.take(); len(list) > 0 {
		t.Errorf("changes of the network: %v", list)
	}
	if diff := cmp.Diff(files, host.Run("find", "/run")); diff != "" {
		t.Errorf("files in /run (-before +after):\n%s", diff)
	}
	if sent := wire.Packets(func(p lab.Packet) bool {
		return p.Out && p.SrcPort == 179 && p.Flags&lab.RST == 0 || p.Out && p.DstPort == 179
	}); len(sent) > 0 {
		t.Errorf("packets sent: %v", sent)
	}
}

// TestBadConfigurationAtReload: what was in force stays so, and the command, one
// line of the log, the status and the metric say that it does.
func TestBadConfigurationAtReload(t *testing.T) {
	t.Parallel()
	l := lab.Start(t, "vipa")
	host := l.Node("host")
	wire := host.Capture()
	c := hostConfig{vips: sampleVIPs()}
	s := startWith(t, l, c)
	st := s.WaitStatus(5*time.Second, "both are source everywhere", bothSources)
	waitQuiet(t, wire, allPeers()...)
	before, logged := host.State(), s.Log()
	kernel := watchNetlink(t, host)
	since := time.Now()
	host.WriteFile(lab.ConfigPath, broken)

	out, err := s.Command("reload")
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
		t.Errorf("reload: %v, want exit code 1", err)
	}
	listsMistakes(t, "the command", out)
	waitQuiet(t, wire, allPeers()...)
	lines := strings.Split(strings.TrimSpace(strings.TrimPrefix(s.Log(), logged)), "\n")
	if len(lines) != 1 || !strings.Contains(lines[0], "configuration refused") || !strings.Contains(lines[0], "level=ERROR") {
		t.Errorf("the log has %d new lines:\n%s", len(lines), strings.Join(lines, "\n"))
	}
	if got := metric(t, host, "vipspeaker_config_reload_successful"); got != "0" {
		t.Errorf("vipspeaker_config_reload_successful is %q", got)
	}
	after, err := s.Status()
	if err != nil {
		t.Fatal(err)
	}
	if after.Config.ReloadOK || after.Config.Error == "" || after.Config.ReloadsError != 1 || !after.Config.LoadedAt.Equal(st.Config.LoadedAt) {
		t.Errorf("status tells %+v", after.Config)
	}
	if diff := cmp.Diff(before, host.State()); diff != "" {
		t.Errorf("the host is not as before (-before +after):\n%s", diff)
	}
	if list := kernel.take(); len(list) > 0 {
		t.Errorf("changes of the network: %v", list)
	}
	for _, peer := range allPeers() {
		if list := to(wire, peer, since, func(m lab.Message) bool { return m.Type != lab.Keepalive }); len(list) > 0 {
			t.Errorf("%v was told: %v", peer, list)
		}
	}
	if diff := cmp.Diff(uptimes(st), uptimes(after)); diff != "" {
		t.Errorf("sessions were touched:\n%s", diff)
	}
}
