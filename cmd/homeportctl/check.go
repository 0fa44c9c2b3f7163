package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/reach"
	"github.com/homeport-cni/homeport/pkg/report"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// checkFormats are the values of check's -o.
var checkFormats = []string{"matrix", "wide", "table", "json", "yaml", "jsonl", "junit", "markdown", "html"}

// checkFlags are what the flags of check say.
type checkFlags struct {
	format, file, baseline, vlans, failOn, last string
	nodes, only, skip                           []string
	dhcp, dryRun                                bool
	timeout, every                              time.Duration
	maxPPS                                      int

	options reach.Options
	known   *reach.Report
}

// checkCommand asks the fabric what it carries.
func checkCommand(o *options) *cobra.Command {
	var f checkFlags
	c := &cobra.Command{
		Use:   "check [NETWORK...]",
		Short: "What the fabric carries, per node and VLAN, and if not, why",
		Long: "Has the agents of all nodes speak to each other and to the gateways in every VLAN that networks have, from the uplinks, without\n" +
			"an address there, and compares what each has heard. Takes some seconds. VMs notice nothing.",
		Example: fmt.Sprintf(`  %[1]s check                              every network, on every node
  %[1]s check legacy-100 --node n3         one network, on one node
  %[1]s check -o json --output-file before.json; %[1]s check --baseline before.json`, o.name),
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			f.options.Networks = args
			err := f.check()
			if c.Flags().Changed("last") {
				err = errors.Join(err, f.asItWas(c, args))
			}
			if err != nil {
				return &failure{exitUsage, fmt.Errorf("%w; next: %s --help", err, c.CommandPath())}
			}
			return f.run(c.Context(), o)
		},
	}
	flags := c.Flags()
	flags.StringVarP(&f.format, "output", "o", checkFormats[0], strings.Join(checkFormats, ", "))
	flags.StringVar(&f.file, "output-file", "", "write it to this `FILE`")
	flags.StringSliceVar(&f.nodes, "node", nil, "only what concerns these `NODES`; others still speak with them")
	flags.StringVar(&f.vlans, "vlan", "", "only these `VLANS`, as 100-110,200")
	flags.StringSliceVar(&f.only, "only", nil, "only these `TESTS`: "+testNames())
	flags.StringSliceVar(&f.skip, "skip", nil, "all but these `TESTS`")
	flags.BoolVar(&f.dhcp, "dhcp", false, "ask for DHCP offers in all networks, not only where reachability.dhcp is Enabled")
	flags.StringVar(&f.baseline, "baseline", "", "a report by -o json: what it has already is no failure")
	flags.StringVar(&f.failOn, "fail-on", string(reach.Error), "exit 1 on findings of this severity and worse: error, warning, info, never")
	flags.DurationVar(&f.timeout, "timeout", 2*time.Minute, "end it after so long; what was found until then is told")
	flags.DurationVar(&f.every, "every", 0, "check again and again, so often, until interrupted")
	flags.IntVar(&f.maxPPS, "max-pps", reach.DefaultPPS, "at most so many frames a second out of each uplink")
	flags.StringVar(&f.last, "last", "", "show what the last run of this ReachabilityCheck found, and check nothing; name it by `CHECK`")
	flags.BoolVar(&f.dryRun, "dry-run", false, "only tell what would be tested, and send nothing")
	complete := cobra.FixedCompletions(checkFormats, cobra.ShellCompDirectiveNoFileComp)
	if err := c.RegisterFlagCompletionFunc("output", complete); err != nil {
		panic(err) // the flag is defined above
	}
	return c
}

// asItWas refuses what selects what is checked, where nothing is.
func (f *checkFlags) asItWas(c *cobra.Command, args []string) error {
	var named []string
	if f.last == "" {
		return errors.New("--last wants the name of a ReachabilityCheck")
	}
	if len(args) > 0 {
		named = append(named, "NETWORK")
	}
	for _, name := range []string{"node", "vlan", "only", "skip", "dhcp", "dry-run", "every", "max-pps"} {
		if c.Flags().Changed(name) {
			named = append(named, "--"+name)
		}
	}
	if len(named) == 0 {
		return nil
	}
	return fmt.Errorf("--last shows a run as it was: leave out %s", strings.Join(named, ", "))
}

func testNames() string {
	var names []string
	for _, t := range reach.Tests() {
		names = append(names, string(t))
	}
	return strings.Join(names, ", ")
}

// check reads the flags, all that is wrong with them.
func (f *checkFlags) check() error {
	var errs []error
	if !slices.Contains(checkFormats, f.format) {
		errs = append(errs, fmt.Errorf("output format %q is unknown: want %s", f.format, strings.Join(checkFormats, ", ")))
	}
	if f.vlans != "" {
		set, err := vlan.ParseSet(f.vlans)
		if err != nil {
			errs = append(errs, fmt.Errorf("--vlan: %w", err))
		}
		f.options.VLANs = set
	}
	if f.failOn != "never" && reach.Severity(f.failOn).Rank() == 0 {
		errs = append(errs, fmt.Errorf("--fail-on %q: want error, warning, info or never", f.failOn))
	}
	if f.maxPPS < 1 {
		errs = append(errs, fmt.Errorf("--max-pps %d: want 1 to %d", f.maxPPS, reach.MaxPPS))
	}
	if f.timeout <= 0 || f.every < 0 {
		errs = append(errs, errors.New("--timeout and --every want a time, as 30s"))
	}
	f.options.Nodes, f.options.DHCP, f.options.MaxPPS, f.options.DryRun = f.nodes, f.dhcp, f.maxPPS, f.dryRun
	for _, t := range f.only {
		f.options.Only = append(f.options.Only, reach.Test(t))
	}
	for _, t := range f.skip {
		f.options.Skip = append(f.options.Skip, reach.Test(t))
	}
	errs = append(errs, f.options.Validate(), f.readBaseline(), f.tryFile())
	return errors.Join(errs...)
}

func (f *checkFlags) readBaseline() error {
	if f.baseline == "" {
		return nil
	}
	b, err := os.ReadFile(f.baseline)
	if err != nil {
		return fmt.Errorf("--baseline: %w", err)
	}
	f.known = new(reach.Report)
	if err := json.Unmarshal(b, f.known); err != nil || f.known.Kind != reach.ReportKind {
		return fmt.Errorf("--baseline %s: want a report that check -o json has written", f.baseline)
	}
	if f.known.Cancelled {
		return fmt.Errorf("--baseline %s: that check was ended before its time, so what it did not find is not known: make another", f.baseline)
	}
	return nil
}

// replaced says that the output file is to be put in place whole: not where there is a device or a pipe.
func (f *checkFlags) replaced() (bool, error) {
	st, err := os.Stat(f.file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case err == nil && st.IsDir():
		return false, fmt.Errorf("%s is a directory: name a file", f.file)
	}
	return err == nil && st.Mode().IsRegular(), err
}

// tryFile finds out before the check whether its report can be written.
func (f *checkFlags) tryFile() error {
	if f.file == "" {
		return nil
	}
	whole, err := f.replaced()
	if err != nil {
		return fmt.Errorf("--output-file: %w", err)
	}
	if !whole {
		return nil
	}
	t, err := os.CreateTemp(filepath.Dir(f.file), ".check-*")
	if err != nil {
		return fmt.Errorf("--output-file: %w", err)
	}
	return errors.Join(t.Close(), os.Remove(t.Name()))
}

// run checks once, or again and again.
func (f *checkFlags) run(ctx context.Context, o *options) error {
	for {
		begun := time.Now()
		err := f.once(ctx, o)
		if f.every == 0 || ctx.Err() != nil {
			return err
		}
		var fail *failure
		if errors.As(err, &fail) && fail.err != nil {
			fmt.Fprintf(o.stderr, "%s: %v\n", o.name, fail.err) // another try follows
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Until(begun.Add(f.every))):
		}
	}
}

// once checks, tells, and gives what the exit code is to say.
func (f *checkFlags) once(ctx context.Context, o *options) error {
	r, raw, err := f.ask(ctx, o)
	if err != nil {
		return err
	}
	if err := f.write(o, r, raw); err != nil {
		return &failure{exitInconclusive, err}
	}
	news, _ := r.News(f.known)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case f.dryRun:
		return nil
	case slices.ContainsFunc(news, func(n reach.Finding) bool {
		return f.failOn != "never" && n.Severity.Rank() >= reach.Severity(f.failOn).Rank()
	}):
		return &failure{code: exitFailed}
	case !r.Conclusive(f.known):
		return &failure{code: exitInconclusive}
	}
	return nil
}

// lookEvery is how often the agent is asked how far it is, endWithin how long it may take to
// end what was cancelled.
const (
	lookEvery = 200 * time.Millisecond
	endWithin = 10 * time.Second
)

// lastRun has the agent tell what a ReachabilityCheck has found.
func (f *checkFlags) lastRun(ctx context.Context, o *options) (wire.ReachState, error) {
	state, err := o.reach(ctx, wire.ReachRequest{Do: wire.ReachLast, ID: f.last})
	if err == nil && state.What != "" {
		fmt.Fprintf(o.stderr, "%s: %s\n", o.name, state.What)
	}
	return state, err
}

// ask has the agent check, and gives its report, as it sent it, too. When ctx ends, or time is up, the
// check is ended, and its report is of what was found until then.
func (f *checkFlags) ask(ctx context.Context, o *options) (*reach.Report, json.RawMessage, error) {
	opts, err := json.Marshal(f.options)
	if err != nil {
		return nil, nil, inconclusive(err)
	}
	var state wire.ReachState
	if f.last != "" {
		state, err = f.lastRun(ctx, o)
	} else {
		state, err = o.reach(ctx, wire.ReachRequest{Do: wire.ReachStart, Options: opts})
	}
	if err != nil {
		return nil, nil, err
	}
	bar := progress{w: o.stderr, on: o.terminal}
	defer bar.end()
	limited, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	var until time.Time
	for !state.Over {
		do := wire.ReachLook
		select {
		case <-limited.Done():
			if until.IsZero() {
				do, until = wire.ReachCancel, time.Now().Add(endWithin)
			}
			time.Sleep(lookEvery)
		case <-time.After(lookEvery):
		}
		if !until.IsZero() && time.Now().After(until) {
			return nil, nil, inconclusive(errors.New("the agent does not end the check"))
		}
		// Who interrupts wants what was found.
		if state, err = o.reach(context.WithoutCancel(ctx), wire.ReachRequest{Do: do, ID: state.ID}); err != nil {
			return nil, nil, err
		}
		bar.show(state)
	}
	switch {
	case state.Refused:
		return nil, nil, &failure{exitUsage, errors.New(state.Error)}
	case state.Error != "":
		return nil, nil, inconclusive(errors.New(state.Error))
	}
	r := new(reach.Report)
	if err := json.Unmarshal(state.Report, r); err != nil {
		return nil, nil, inconclusive(fmt.Errorf("the agent's report is not understood: %w; install homeportctl and agent of one release", err))
	}
	return r, state.Report, nil
}

func (o *options) reach(ctx context.Context, req wire.ReachRequest) (state wire.ReachState, err error) {
	raw, err := o.call(ctx, wire.Reach, req)
	if err != nil {
		return state, err
	}
	if err := json.Unmarshal(raw, &state); err != nil {
		return state, inconclusive(err)
	}
	return state, nil
}

// write prints the report, or puts it in place of the file.
func (f *checkFlags) write(o *options, r *reach.Report, raw json.RawMessage) error {
	var buf bytes.Buffer
	p := report.Printer{W: &buf, Format: report.Table, Color: o.color && f.file == ""}
	_, known := r.News(f.known)
	var err error
	switch f.format {
	case "wide":
		p.Format = report.Wide
		err = p.Reach(r, known)
	case "json", "yaml":
		p.Format = report.Format(f.format)
		err = p.Document(raw)
	case "table":
		err = p.ReachTable(r)
	case "jsonl":
		err = p.ReachLines(r)
	case "junit":
		err = p.ReachJUnit(r)
	case "markdown":
		err = p.ReachMarkdown(r)
	case "html":
		err = p.ReachHTML(r, known)
	default:
		err = p.Reach(r, known)
	}
	if err != nil {
		return err
	}
	if f.file == "" {
		_, err := io.Copy(o.stdout, &buf)
		return err
	}
	whole, err := f.replaced()
	if err != nil {
		return err
	}
	if !whole {
		return os.WriteFile(f.file, buf.Bytes(), 0o644)
	}
	temp, err := os.CreateTemp(filepath.Dir(f.file), ".check-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // nothing is there any more if all went well
	_, err = temp.Write(buf.Bytes())
	if err := errors.Join(err, temp.Chmod(0o644), temp.Close()); err != nil {
		return err
	}
	return os.Rename(temp.Name(), f.file)
}

// progress is a bar on a terminal, and nothing elsewhere.
type progress struct {
	w     io.Writer
	on    bool
	shown bool
}

func (p *progress) show(s wire.ReachState) {
	if !p.on {
		return
	}
	const width = 20
	full := 0
	if s.Of > 0 {
		full = min(width, width*s.Done/s.Of)
	}
	fmt.Fprintf(p.w, "\r\x1b[K[%s%s] %s", strings.Repeat("#", full), strings.Repeat(".", width-full), s.What)
	p.shown = true
}

func (p *progress) end() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// explainCommand tells of a finding's code.
func explainCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "explain [CODE]",
		Short:   "What a finding of check means, how it is known and what to do",
		Example: fmt.Sprintf(`  %s explain NOT_TRUNKED`, o.name),
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("%s takes one code, got %q", c.CommandPath(), args)
			}
			return nil
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return codeNames(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return o.printer().Codes(reach.Codes())
			}
			t, ok := reach.Code(strings.ToUpper(args[0])).Text()
			if !ok {
				return &failure{exitUsage, fmt.Errorf("there is no code %q: want one of %s", args[0], strings.Join(codeNames(), ", "))}
			}
			return o.printer().Code(t)
		},
	}
}

func codeNames() (names []string) {
	for _, t := range reach.Codes() {
		names = append(names, string(t.Code))
	}
	return names
}
