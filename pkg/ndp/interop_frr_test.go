package ndp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"vipspeaker/test/netnstest"
)

// The tests in this file run FRR's zebra and bgpd with an unnumbered neighbour.

const frrDir = "/usr/lib/frr/"

// frr is zebra and bgpd in a namespace.
type frr struct {
	t      *testing.T
	ns     netnstest.NS
	dir    string
	zebra  *daemon
	bgpd   *daemon
	device string
}

// startFRR starts FRR with an unnumbered neighbour on the device.
func startFRR(t *testing.T, ns netnstest.NS, device string) *frr {
	t.Helper()
	f := &frr{t: t, ns: ns, dir: "/run/frr-" + ns.Name(), device: device}
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	bgp := fmt.Sprintf("router bgp 65001\n bgp router-id 10.0.0.1\n no bgp ebgp-requires-policy\n neighbor %s interface remote-as external\n neighbor %s timers connect 1\n", device, device)
	for name, text := range map[string]string{"zebra": "", "bgpd": bgp} {
		if err := os.WriteFile(filepath.Join(f.dir, name+".conf"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.startZebra()
	f.startBGP()
	return f
}

func (f *frr) startZebra() { f.zebra = f.daemon("zebra") }
func (f *frr) startBGP()   { f.bgpd = f.daemon("bgpd", "-p", "179") }

// daemon starts one of FRR's, as root: a process that changes its user forgets
// that it is to die with its parent.
func (f *frr) daemon(name string, args ...string) *daemon {
	f.t.Helper()
	args = append([]string{
		"netns", "exec", f.ns.Name(), frrDir + name, "-u", "root", "-g", "frrvty", "-A", "127.0.0.1",
		"-f", filepath.Join(f.dir, name+".conf"), "-i", filepath.Join(f.dir, name+".pid"), "-z", filepath.Join(f.dir, "zserv.api"),
		"--vty_socket", f.dir, "--log", "stdout", "--log-level", "notifications",
	}, args...)
	return startDaemon(f.t, name, filepath.Join(f.dir, name+".vty"), exec.Command("ip", args...))
}

// state is the neighbour as bgpd sees it.
func (f *frr) state() (string, error) {
	out, err := exec.CommandContext(f.t.Context(), "vtysh", "--vty_socket", f.dir, "-d", "bgpd",
		"-c", "show bgp neighbors "+f.device+" json").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("vtysh: %w: %s", err, out)
	}
	var all map[string]struct {
		BgpState string `json:"bgpState"`
	}
	if err := json.Unmarshal(out, &all); err != nil {
		return "", fmt.Errorf("vtysh: %w: %s", err, out)
	}
	return all[f.device].BgpState, nil
}

// daemon is a process that ends with the test.
type daemon struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}
}

// startDaemon starts a program and waits until it has made the file.
func startDaemon(t *testing.T, name, file string, cmd *exec.Cmd) *daemon {
	t.Helper()
	d := &daemon{t: t, cmd: cmd, done: make(chan struct{})}
	log := filepath.Join(t.TempDir(), name+".log")
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	cmd.Stdout, cmd.Stderr = out, out
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		close(d.done)
	}()
	t.Cleanup(func() {
		d.kill()
		if t.Failed() {
			text, _ := os.ReadFile(log)
			t.Logf("%s said:\n%s", name, text)
		}
	})
	netnstest.Until(t, patience, func() error {
		_, err := os.Stat(file)
		return err
	})
	return d
}

// kill ends the process, by its id, without a chance to say anything.
func (d *daemon) kill() {
	if err := d.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		d.t.Error(err)
	}
	<-d.done
}

// notIdle waits until FRR's session has left Idle.
func (f *frr) notIdle() {
	f.t.Helper()
	netnstest.Until(f.t, patience, func() error {
		s, err := f.state()
		if err == nil && (s == "Idle" || s == "") {
			err = fmt.Errorf("FRR's neighbour is %q", s)
		}
		return err
	})
}

// idle waits until bgpd knows its neighbour and has nobody to dial.
func (f *frr) idle() {
	f.t.Helper()
	netnstest.Until(f.t, patience, func() error {
		s, err := f.state()
		if err == nil && s != "Idle" {
			err = fmt.Errorf("FRR's neighbour is %q", s)
		}
		return err
	})
}

// listener takes connections to our port 179 on a link and tells from whom.
func listener(t *testing.T) <-chan netip.Addr {
	t.Helper()
	l, err := net.Listen("tcp6", "[::]:179")
	if err != nil {
		t.Fatal(err)
	}
	from := make(chan netip.Addr, 16)
	done := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			a, err := netip.ParseAddrPort(c.RemoteAddr().String())
			if err == nil {
				select {
				case from <- a.Addr():
				default:
				}
			}
			_ = c.Close()
		}
	}()
	return from
}

func awaitCall(t *testing.T, calls <-chan netip.Addr, from netip.Addr) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		select {
		case a := <-calls:
			if a == from {
				return
			}
		case <-deadline.C:
			t.Fatalf("no connection from %s", from)
		}
	}
}

// FRR waits for our advertisement, then dials us; we learn its address.
func TestInteropFRR(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		r1 := ns.New("r1")
		ns.VethTo("en1", r1, "e1")
		router := linkLocal(t, r1, "e1")
		linkLocal(t, ns, "en1")
		calls := listener(t)
		f := startFRR(t, r1, "e1")
		f.idle()
		select {
		case a := <-calls:
			t.Fatalf("FRR dialled from %s before it knew us", a)
		default:
		}
		began := time.Now()
		o := run(t, "en1")
		o.awaitRouters("en1", advertises(router, "en1"))
		t.Logf("learned after %s", time.Since(began))
		awaitCall(t, calls, router.WithZone("en1"))
		t.Logf("dialled after %s", time.Since(began))
		f.notIdle()
		i := o.iface("en1")
		if r := i.Routers[0]; i.Error != "" || r.Expires.Sub(r.Heard) < minHold {
			t.Errorf("interface is %+v", i)
		}
		o.end()
	})
}

// FRR dials us again after its zebra was started again, after its interface was
// made anew, and after ours was.
func TestInteropFRRChanges(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		r1 := ns.New("r1")
		ns.VethTo("en1", r1, "e1")
		router := linkLocal(t, r1, "e1")
		linkLocal(t, ns, "en1")
		calls := listener(t)
		f := startFRR(t, r1, "e1")
		f.idle()
		o := run(t, "en1")
		o.awaitRouters("en1", advertises(router, "en1"))
		awaitCall(t, calls, router.WithZone("en1"))

		f.bgpd.kill()
		f.zebra.kill()
		f.startZebra()
		f.startBGP()
		drain(calls)
		began := time.Now()
		awaitCall(t, calls, router.WithZone("en1"))
		t.Logf("FRR started again: dialled after %s", time.Since(began))
		o.awaitRouters("en1", advertises(router, "en1"))

		ns.IP("link del en1")
		o.awaitError("en1", "there is no such interface")
		ns.VethTo("en1", r1, "e1")
		drain(calls)
		began = time.Now()
		router = linkLocal(t, r1, "e1")
		o.await("en1", "one with the new router", func(i Interface) bool {
			return len(i.Routers) > 0 && i.Routers[0].ByAdvertisement && i.Routers[0].Address == router.WithZone("en1")
		})
		t.Logf("made anew: learned after %s", time.Since(began))
		awaitCall(t, calls, router.WithZone("en1"))
		t.Logf("made anew: dialled after %s", time.Since(began))
		o.end()
	})
}

func drain(calls <-chan netip.Addr) {
	for {
		select {
		case <-calls:
		default:
			return
		}
	}
}
