package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vipspeaker/test/netnstest"
)

// TestStopRestoresTheHost: from start to SIGTERM, with a service manager that
// listens, and then the host is as it was.
func TestStopRestoresTheHost(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns, labConfig)
		manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "/run/notify", Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		told := make(chan string, 100_000) // what nobody takes would keep the daemon from telling more
		go func() {
			buf := make([]byte, 4096)
			for {
				n, readErr := manager.Read(buf)
				if readErr != nil {
					return
				}
				told <- string(buf[:n])
			}
		}()
		expect := func(want string) {
			t.Helper()
			for {
				select {
				case got := <-told:
					if strings.HasPrefix(got, want) {
						return
					}
				case <-time.After(soon):
					t.Errorf("the service manager is not told %s", want)
					return
				}
			}
		}
		d := l.daemon(t, "NOTIFY_SOCKET=/run/notify", "WATCHDOG_USEC=300000")
		expect("READY=1")
		expect("WATCHDOG=1")
		if !l.holds() {
			t.Error("the VIPs are not bound")
		}
		for _, args := range [][]string{{"run", "--config", l.config}, {"cleanup"}, {"cleanup", "--if-stopped"}} {
			got := start(t, nil, nil, args...)
			want := fmt.Sprintf("vipspeaker: another vipspeaker (process %d) uses the state directory /run/vipspeaker: stop that one first\n", d.cmd.Process.Pid)
			if code := got.wait(t); code != exitBad || got.log.String() != want {
				t.Errorf("%q beside a daemon: code %d, %s", args, code, &got.log)
			}
		}
		if got := call(t, "reload"); got.Code != exitGood {
			t.Errorf("reload: %+v", got)
		}
		expect("RELOADING=1\nMONOTONIC_USEC=")
		expect("READY=1")
		if code := d.signal(t, syscall.SIGTERM); code != exitGood {
			t.Errorf("exit code %d", code)
		}
		expect("STOPPING=1")
		l.same(t)
		if got := call(t, "cleanup", "--if-stopped"); got.Code != exitGood {
			t.Errorf("cleanup after a clean stop: %+v", got)
		}
		l.same(t)
		if _, err := os.Lstat(defaultSocket); !os.IsNotExist(err) {
			t.Errorf("the control socket is left: %v", err)
		}
	})
}

// TestCleanup: what a daemon that was killed left stays for the next start,
// unless it had been told to stop for good or a person asks for it.
func TestCleanup(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns, labConfig)
		l.daemon(t).signal(t, syscall.SIGKILL)
		if got := call(t, "cleanup", "--if-stopped"); got.Code != exitGood || !l.holds() {
			t.Errorf("after a crash: %+v, VIPs held: %t", got, l.holds())
		}
		d := l.daemon(t)
		d.says(t, "adopted=true") // the next start takes over
		// Killed by the service manager, because its stop took too long.
		d.signal(t, syscall.SIGKILL)
		order := record{pid: d.cmd.Process.Pid, stop: modeDrain}.String()
		if err := os.WriteFile(filepath.Join(defaultStateDir, lockName), []byte(order), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := call(t, "cleanup", "--if-stopped"); got.Code != exitGood {
			t.Errorf("after a stop that hung: %+v", got)
		}
		l.same(t)
		l.daemon(t).signal(t, syscall.SIGKILL)
		if got := call(t, "cleanup"); got.Code != exitGood {
			t.Errorf("by hand: %+v", got)
		}
		l.same(t)
		if got := call(t, "cleanup"); got.Code != exitGood {
			t.Errorf("with nothing left: %+v", got)
		}
		l.same(t)
	})
}

// TestOneInANetwork: another state directory makes no room for a second daemon
// beside the first, and `cleanup` with it takes nothing from a running one. What
// the daemon has started does not keep the lock when it is gone.
func TestOneInANetwork(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns, strings.Replace(labConfig, `/128"}`,
			`/128", checks: [{name: lasting, exec: {command: [/bin/sleep, "8"]}, interval: 10s, timeout: 10s}]}`, 1))
		d := l.daemon(t)
		for _, args := range [][]string{
			{"run", "--config", l.config, "--state-dir", "/run/other", "--socket", "/run/other.sock"},
			{"cleanup", "--state-dir", "/run/other"},
		} {
			got := start(t, nil, nil, args...)
			want := fmt.Sprintf("vipspeaker: another vipspeaker (process %d of user %d) serves this network namespace "+
				"(it holds the abstract socket @vipspeaker); there can be one: stop that one first\n", d.cmd.Process.Pid, os.Getuid())
			if code := got.wait(t); code != exitBad || got.log.String() != want {
				t.Errorf("%q beside a daemon: code %d, %s", args, code, &got.log)
			}
		}
		if !l.holds() {
			t.Error("the daemon has lost its VIPs")
		}
		d.signal(t, syscall.SIGKILL)
		if got := call(t, "cleanup"); got.Code != exitGood {
			t.Errorf("cleanup after SIGKILL: %+v", got)
		}
		l.same(t)
	})
}

// TestRestartModeLeavesAll: the kernel is left to the next process.
func TestRestartModeLeavesAll(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns, labConfig+"shutdown: {mode: restart}\n")
		if code := l.daemon(t).signal(t, syscall.SIGTERM); code != exitGood || !l.holds() {
			t.Errorf("code %d, VIPs held: %t", code, l.holds())
		}
		if got := call(t, "cleanup", "--if-stopped"); got.Code != exitGood || !l.holds() {
			t.Errorf("cleanup: %+v, VIPs held: %t", got, l.holds())
		}
		d := l.daemon(t)
		d.says(t, "adopted=true") // the next start takes over
		d.signal(t, syscall.SIGKILL)
		if got := call(t, "cleanup"); got.Code != exitGood {
			t.Errorf("cleanup: %+v", got)
		}
		l.same(t)
	})
}

// TestReloadOfARunningDaemon: by command and by signal, good and bad.
func TestReloadOfARunningDaemon(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns, labConfig)
		d := l.daemon(t)
		put := func(config string) {
			t.Helper()
			if err := os.WriteFile(l.config, []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		// configured waits until the picture shows the outcome of a reload.
		configured := func(vips int, ok bool, loaded uint64) {
			t.Helper()
			netnstest.Until(t, soon, func() error {
				s, err := picture(t)
				if err != nil {
					return err
				}
				if len(s.VIPs) != vips || s.Config.ReloadOK != ok || s.Config.ReloadsOK != loaded {
					return fmt.Errorf("%d VIPs, %+v", len(s.VIPs), s.Config)
				}
				return nil
			})
		}
		put(labConfig + "bogus: 1\n" + "log: {level: loud}\n")
		got := call(t, "reload")
		if got.Code != exitBad || strings.Count(got.Stdout, "\n") != 2 || !strings.Contains(got.Stdout, "bogus") {
			t.Errorf("reload of a bad file: %+v", got)
		}
		configured(2, false, 0)
		if !l.holds() {
			t.Error("a bad file cost the VIPs")
		}
		put(strings.Replace(labConfig, "vips:", "vips:\n  - {name: more, address: 10.68.6.2/32}", 1))
		if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		configured(3, true, 1)
		put(labConfig)
		if got := call(t, "reload"); got.Code != exitGood {
			t.Errorf("reload: %+v", got)
		}
		configured(2, true, 2)
		if code := d.signal(t, syscall.SIGINT); code != exitGood {
			t.Errorf("exit code %d", code)
		}
		l.same(t)
	})
}

// TestStopDuringReload: a reload whose disk does not answer holds up no order to
// stop.
func TestStopDuringReload(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns, labConfig)
		d := l.daemon(t)
		_ = reloadAndHang(t, l, d)
		if code := d.signal(t, syscall.SIGTERM); code != exitGood {
			t.Errorf("exit code %d", code)
		}
		l.same(t)
	})
}

// reloadAndHang orders a reload and returns when it reads the file, which does not
// answer until the function that it returns is called, or the test has ended.
func reloadAndHang(t *testing.T, l *lab, d *program) (answer func()) {
	t.Helper()
	// Whoever opens a file waits for its lease to be given back (fcntl(2)).
	file, err := os.OpenFile(l.config, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	lease := func(cmd, arg int) int {
		kind, leaseErr := unix.FcntlInt(file.Fd(), cmd, arg)
		if leaseErr != nil {
			t.Fatal(leaseErr)
		}
		return kind
	}
	lease(unix.F_SETLEASE, unix.F_WRLCK)
	if err = d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	netnstest.Until(t, soon, func() error {
		if lease(unix.F_GETLEASE, 0) == unix.F_WRLCK {
			return errors.New("nobody reads the file again")
		}
		return nil
	})
	return func() { lease(unix.F_SETLEASE, unix.F_UNLCK) }
}

// pending is an error while a signal waits to be taken by a process, proc_pid_status(5).
func pending(pid int, s syscall.Signal) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if mask, ok := strings.CutPrefix(line, "ShdPnd:"); ok {
			set, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			if err == nil && set&(1<<(s-1)) != 0 {
				err = fmt.Errorf("%s is pending", s)
			}
			return err
		}
	}
	return errors.New("no line ShdPnd")
}

// TestStopAfterReload: an order to stop is carried out as the file says that an
// order just before it was to reload.
func TestStopAfterReload(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns, labConfig)
		d := l.daemon(t)
		if err := os.WriteFile(l.config, []byte(labConfig+"shutdown: {mode: restart}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		answer := reloadAndHang(t, l, d)
		if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		netnstest.Until(t, soon, func() error { // it is heard before the reload is done
			return pending(d.cmd.Process.Pid, syscall.SIGTERM)
		})
		answer()
		if code := d.wait(t); code != exitGood || !l.holds() {
			t.Errorf("exit code %d, VIPs held: %t, want them left for the next process", code, l.holds())
		}
		if got := call(t, "cleanup"); got.Code != exitGood {
			t.Errorf("cleanup: %+v", got)
		}
		l.same(t)
	})
}

// TestOrdinaryUser: the daemon needs no root, only two capabilities, as the
// systemd unit gives them.
func TestOrdinaryUser(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns, labConfig)
		const user = 65532
		if err := os.Mkdir(defaultStateDir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(defaultStateDir, user, user); err != nil {
			t.Fatal(err)
		}
		d := start(t, &syscall.SysProcAttr{
			Credential:  &syscall.Credential{Uid: user, Gid: user},
			AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_BIND_SERVICE},
		}, nil, "run", "--config", l.config)
		l.ready(t, d)
		info, err := os.Stat(defaultSocket)
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); st.Gid != user || info.Mode().Perm() != 0o660 {
			t.Errorf("the socket has group %d and mode %v", st.Gid, info.Mode())
		}
		if code := d.signal(t, syscall.SIGTERM); code != exitGood {
			t.Errorf("exit code %d", code)
		}
		l.same(t)
	})
}

// TestRouterIDLivesAsLongAsTheState: a crash and a restart keep a chosen router
// id, a drain forgets it, and one of the configuration is never kept.
func TestRouterIDLivesAsLongAsTheState(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns, labConfig)
		runs := []struct {
			name, address, config, want, kept string
			end                               syscall.Signal
		}{
			{"configured", "10.68.1.1", strings.Replace(labConfig, "65010}", "65010, router_id: 192.0.2.1}", 1), "192.0.2.1", "", syscall.SIGKILL},
			{"chosen", "10.68.1.1", labConfig, "10.68.1.1", "10.68.1.1\n", syscall.SIGKILL},
			{"after a crash", "10.68.1.3", labConfig + "shutdown: {mode: restart}\n", "10.68.1.1", "10.68.1.1\n", syscall.SIGTERM},
			{"after a restart", "10.68.1.3", labConfig, "10.68.1.1", "", syscall.SIGTERM},
			{"after a drain", "10.68.1.3", labConfig, "10.68.1.3", "10.68.1.3\n", syscall.SIGKILL},
		}
		for _, r := range runs {
			if !strings.Contains(ns.IP("addr show en1"), r.address+"/") {
				ns.IP("addr flush dev en1")
				ns.IP("addr add %s/24 dev en1", r.address)
			}
			if err := os.WriteFile(l.config, []byte(r.config), 0o600); err != nil {
				t.Fatal(err)
			}
			d := l.daemon(t)
			netnstest.Until(t, soon, func() error {
				s, err := picture(t)
				if err == nil && s.RouterID.String() != r.want {
					err = fmt.Errorf("%s: router id %v, want %s", r.name, s.RouterID, r.want)
				}
				// It is written beside the control loop, so a moment later.
				if kept, _ := os.ReadFile(filepath.Join(defaultStateDir, routerIDName)); err == nil && r.end == syscall.SIGKILL && string(kept) != r.kept {
					err = fmt.Errorf("%s: %q is kept", r.name, kept)
				}
				return err
			})
			d.signal(t, r.end)
			kept, err := os.ReadFile(filepath.Join(defaultStateDir, routerIDName))
			if string(kept) != r.kept || err != nil && !os.IsNotExist(err) {
				t.Errorf("%s: %q is kept, want %q: %v", r.name, kept, r.kept, err)
			}
		}
		if got := call(t, "cleanup"); got.Code != exitGood {
			t.Errorf("cleanup: %+v", got)
		}
		if id, err := readRouterID(defaultStateDir); err != nil || id.IsValid() {
			t.Errorf("after cleanup: %v, %v", id, err)
		}
	})
}

// TestMissingCapabilities: who may not change the kernel is told so and what to
// do, before anything is touched; who may not listen for routers is warned.
func TestMissingCapabilities(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns, labConfig)
		const user = 65532
		as := func(capabilities ...uintptr) *syscall.SysProcAttr {
			return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}, AmbientCaps: capabilities}
		}
		if err := os.Chmod("/run", 0o777); err != nil {
			t.Fatal(err)
		}
		p := start(t, as(), nil, "run", "--config", l.config)
		if code := p.wait(t); code != exitBad {
			t.Errorf("exit code %d", code)
		}
		for _, want := range []string{"CAP_NET_ADMIN is missing", "root", "AmbientCapabilities", "--cap-add NET_ADMIN"} {
			if !strings.Contains(p.log.String(), want) {
				t.Errorf("no word of %s: %s", want, &p.log)
			}
		}
		if _, err := os.Lstat(defaultStateDir); !os.IsNotExist(err) {
			t.Errorf("the state directory was made: %v", err)
		}
		l.same(t)
		const warning = "CAP_NET_BIND_SERVICE is missing"
		for _, config := range []string{labConfig, strings.Replace(labConfig, "65010}", "65010, listen_port: 1790}", 1)} {
			if err := os.WriteFile(l.config, []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			d := start(t, as(unix.CAP_NET_ADMIN), nil, "run", "--config", l.config)
			l.ready(t, d)
			if code := d.signal(t, syscall.SIGTERM); code != exitGood {
				t.Errorf("exit code %d", code)
			}
			if want := config == labConfig; strings.Contains(d.log.String(), warning) != want {
				t.Errorf("warning %t, want %t:\n%s", !want, want, &d.log)
			}
		}
	})
}

// TestTakenPort: a port that another program has is named, before anything of
// the host is touched.
func TestTakenPort(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns, labConfig)
		other, err := net.Listen("tcp", "127.0.0.1:9179")
		if err != nil {
			t.Fatal(err)
		}
		got := call(t, "run", "--config", l.config)
		want := "vipspeaker: http.listen 127.0.0.1:9179: listen tcp 127.0.0.1:9179: bind: address already in use\n"
		if got.Code != exitBad || got.Stderr != want {
			t.Errorf("%+v, want %s", got, want)
		}
		l.same(t)
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestSecondSignal: who cannot wait for the drain gets the end at once, and is
// told how to clean up.
func TestSecondSignal(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns, labConfig)
		d := l.daemon(t)
		// A process that does not answer is waited for.
		pid := speakerOf(t)
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		// The first is the order, those that follow at once are the same, and then comes one
		// that is another.
		begin := time.Now()
		netnstest.Until(t, soon, func() error {
			if err := d.cmd.Process.Signal(syscall.SIGTERM); errors.Is(err, os.ErrProcessDone) {
				return nil
			}
			return errors.New("it has not ended")
		})
		if took := time.Since(begin); took < echoes {
			t.Errorf("ended after %s, want the echoes of %s ignored", took, echoes)
		}
		if code := d.wait(t); code != exitBad || !strings.Contains(d.log.String(), "ended at once by a second signal") {
			t.Errorf("code %d:\n%s", code, &d.log)
		}
		if got := call(t, "cleanup", "--if-stopped"); got.Code != exitGood {
			t.Errorf("cleanup: %+v", got)
		}
		l.same(t)
	})
}

// speakerOf is the speaker process of the daemon.
func speakerOf(t *testing.T) (pid int) {
	t.Helper()
	netnstest.Until(t, soon, func() error {
		st, err := picture(t)
		if err != nil {
			return err
		}
		if pid = st.Interfaces[0].Speaker.PID; pid == 0 {
			return errors.New("no speaker process runs")
		}
		return nil
	})
	return pid
}

// TestEchoOfASignal: two signals at once are one order, which is carried out.
func TestEchoOfASignal(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns, labConfig)
		d := l.daemon(t)
		// Both are there when it goes on.
		for _, s := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGTERM, syscall.SIGINT} {
			if err := d.cmd.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
		}
		if code := d.signal(t, syscall.SIGCONT); code != exitGood {
			t.Errorf("code %d:\n%s", code, &d.log)
		}
		l.same(t)
	})
}

// TestEchoAfterAStandstill: the time in which a process does not run makes no other
// order of the second of two signals.
func TestEchoAfterAStandstill(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns, labConfig)
		for early := false; !early; {
			d := l.daemon(t)
			peer := speakerOf(t)
			send := func(pid int, s syscall.Signal) {
				t.Helper()
				if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
					t.Fatal(err)
				}
			}
			send(peer, syscall.SIGSTOP) // which is waited for
			began := time.Now()
			send(d.cmd.Process.Pid, syscall.SIGTERM)
			d.says(t, "msg=stopping")
			send(d.cmd.Process.Pid, syscall.SIGSTOP)
			early = time.Since(began) < echoes/2 // else the next one may rightly be another order
			send(d.cmd.Process.Pid, syscall.SIGINT)
			netnstest.Until(t, soon, func() error { // it stands still for longer than it listens for echoes
				if time.Since(began) < 2*echoes {
					return errors.New("not for long enough")
				}
				return nil
			})
			send(d.cmd.Process.Pid, syscall.SIGCONT)
			netnstest.Until(t, soon, func() error {
				err := pending(d.cmd.Process.Pid, syscall.SIGINT)
				if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
					return nil // it has ended
				}
				return err
			})
			// It ends at once if it takes what it has heard for another order.
			heard := time.Now()
			netnstest.Until(t, soon, func() error {
				if time.Since(heard) < echoes/10 {
					return errors.New("it may not have heard it yet")
				}
				return nil
			})
			send(peer, syscall.SIGCONT)
			if code := d.wait(t); early && code != exitGood {
				t.Errorf("code %d:\n%s", code, &d.log)
			}
			if got := call(t, "cleanup", "--if-stopped"); got.Code != exitGood {
				t.Errorf("cleanup: %+v", got)
			}
			l.same(t)
		}
	})
}

// TestCleanupWithADamagedStateFile: with the configuration the routes of the main
// table are known that are ours, and nobody else's with the same number are taken.
func TestCleanupWithADamagedStateFile(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns, labConfig+"egress: {import: [0.0.0.0/0], install: main}\n")
		ns.IP("route add 198.51.100.0/24 via 10.68.1.2 proto 68 metric 20")
		before := ns.IP("route show")
		ns.IP("route add default via 10.68.1.2 table 6801 proto 68")
		ns.IP("route add default via 10.68.1.2 proto 68 metric 20")
		if err := os.MkdirAll(defaultStateDir, 0o755); err != nil {
			t.Fatal(err)
		}
		damage := func() {
			if err := os.WriteFile(filepath.Join(defaultStateDir, "vip.json"), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		damage()
		got := call(t, "cleanup", "--config", "/run/nowhere.yaml")
		if got.Code != exitGood || !strings.Contains(got.Stderr, "without the configuration") || !strings.Contains(got.Stderr, "route=0.0.0.0/0 metric=20") {
			t.Errorf("without a configuration: %+v", got)
		}
		ns.IP("route add default via 10.68.1.2 table 6801 proto 68")
		damage()
		if got := call(t, "cleanup", "--config", l.config); got.Code != exitGood || !strings.Contains(got.Stderr, "route=198.51.100.0/24 metric=20") {
			t.Errorf("with it: %+v", got)
		}
		if after := ns.IP("route show"); after != before {
			t.Errorf("main table:\n%s\nwant:\n%s", after, before)
		}
	})
}
