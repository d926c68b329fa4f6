package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/status"
)

// frontsName is the file in the state directory with the VIPs that this host
// announces with their rank, of those that wait when they come back
// (role.failback). A process that takes over from one that has just ended goes on
// with them; one that starts later, after a drain or after a reboot, comes back.
const frontsName = "fronts"

// frontsAge is how old the file may be, beside the time for which routers keep
// routes: it is written with every pass, and those are at most 30 s apart.
const frontsAge = 35 * time.Second

// readFronts returns what a former process announced with its rank until just
// now.
func readFronts(stateDir string, restartTime time.Duration, now time.Time) ([]netip.Prefix, error) {
	path := filepath.Join(stateDir, frontsName)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(path) //nolint:gosec // the operator names the directory
	}
	if err != nil {
		return nil, fmt.Errorf("roles of a former process: %w", err)
	}
	if now.Sub(info.ModTime()) > frontsAge+restartTime {
		return nil, nil
	}
	var list []netip.Prefix
	for line := range strings.FieldsSeq(string(data)) {
		// A line that a crash cut short is a VIP that comes back.
		if p, err := netip.ParsePrefix(line); err == nil {
			list = append(list, p)
		}
	}
	return list, nil
}

// fronts are the VIPs of a picture that belong into the file.
func fronts(s *status.Status) []netip.Prefix {
	var list []netip.Prefix
	for i := range s.VIPs {
		v := &s.VIPs[i]
		if r := v.Role; r != nil && r.Rank > 0 && r.Failback != "immediate" && v.Announced && !r.Behind {
			list = append(list, v.Prefix)
		}
	}
	return list
}

// keepFronts writes the file. Without such VIPs there is none.
func (d *daemon) keepFronts(s *status.Status) error {
	list := fronts(s)
	if s.Stopping || len(list) == 0 && len(d.fronts) == 0 {
		return nil // what was there before the stop counts
	}
	d.fronts = list
	if len(list) == 0 {
		return forgetFronts(d.stateDir)
	}
	lines := make([]string, len(list))
	for i, p := range list {
		lines[i] = p.String() + "\n"
	}
	path := filepath.Join(d.stateDir, frontsName)
	if err := os.WriteFile(path+".new", []byte(strings.Join(lines, "")), 0o644); err != nil { //nolint:gosec // no secret
		return fmt.Errorf("roles: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("roles: %w", err)
	}
	return nil
}

// tellFronts logs once that the file cannot be written, and that it can again:
// there are passes all the time.
func (d *daemon) tellFronts(err error) {
	switch {
	case err != nil && !d.frontsFail:
		d.log.Warn("roles not kept for the next start", "error", err)
	case err == nil && d.frontsFail:
		d.log.Info("roles kept for the next start again")
	}
	d.frontsFail = err != nil
}

// forgetFronts removes the file, if there is one.
func forgetFronts(stateDir string) error {
	if err := os.Remove(filepath.Join(stateDir, frontsName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("roles: %w", err)
	}
	return nil
}

// failback carries an operator's order out, or tells why there is nothing to do.
func (d *daemon) failback(name string) error {
	s := d.store.Load()
	if s == nil {
		return errors.New("the daemon has just started: no pass has ended yet")
	}
	e, err := s.Explain(name, time.Now())
	if err != nil {
		return err
	}
	v := &e.VIP
	configured := slices.ContainsFunc(d.config.Load().VIPs, func(c config.VIP) bool { return c.Prefix == v.Prefix && c.Role != nil })
	switch {
	case !configured || v.Role == nil || v.Role.Rank == 0:
		return fmt.Errorf("%s has no role.rank, so there is nothing to take back", v.Name)
	case !v.Announced:
		return fmt.Errorf("%s is not announced by this host (%s), so it can take nothing back", v.Name, v.Reason)
	case !v.Role.Behind:
		return fmt.Errorf("%s is announced with its rank already", v.Name)
	}
	d.loop.Failback(v.Prefix)
	return nil
}
