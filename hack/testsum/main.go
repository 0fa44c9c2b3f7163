// Command testsum runs tests, shows what failed, and counts: how many tests ran,
// how many were skipped, and for which reasons.
//
//	testsum run [-test2json] [-noskip] -name unit -- go test -json ./...
//	testsum report
//
// run keeps the events in out/test/NAME.json and exits with the command's
// verdict; report adds up all that run has kept.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const dir = "out/test"

func main() {
	if len(os.Args) < 2 {
		fatal("usage: testsum run|report")
	}
	switch os.Args[1] {
	case "run":
		os.Exit(run(os.Args[2:]))
	case "report":
		os.Exit(report())
	default:
		fatal("usage: testsum run|report")
	}
}

func fatal(msg string) {
	fmt.Fprintln(os.Stderr, msg)
	os.Exit(2)
}

func run(args []string) int {
	fs := flag.NewFlagSet("run", flag.ExitOnError)
	name := fs.String("name", "", "what this run is called in the report")
	convert := fs.Bool("test2json", false, "the command prints -test.v=test2json output, not JSON")
	noskip := fs.Bool("noskip", false, "a skipped test is a failure")
	_ = fs.Parse(args)
	if *name == "" || fs.NArg() == 0 {
		fatal("usage: testsum run -name NAME -- COMMAND...")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		fatal(err.Error())
	}
	start := time.Now()
	out, wait, err := start2json(*convert, *name, fs.Args())
	if err != nil {
		fatal(err.Error())
	}
	f, err := os.Create(filepath.Join(dir, *name+".json"))
	if err != nil {
		fatal(err.Error())
	}
	defer f.Close()
	s := newSummary()
	s.read(io.TeeReader(out, f), os.Stdout)
	code := wait()
	if s.failed > 0 && code == 0 {
		code = 1
	}
	if code == 0 && s.passed+s.skipped == 0 {
		fmt.Printf("%s: no test ran\n", *name)
		code = 1
	}
	if *noskip && s.skipped > 0 {
		fmt.Printf("%s: nothing may be skipped here\n", *name)
		code = 1
	}
	s.print(*name, time.Since(start))
	if code != 0 {
		fmt.Printf("%s: FAILED (exit %d)\n", *name, code)
	}
	return code
}

// start2json starts the command, and test2json behind it when asked.
func start2json(convert bool, name string, args []string) (io.Reader, func() int, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	wait := func() int { return exitCode(cmd.Wait()) }
	if !convert {
		return out, wait, nil
	}
	conv := exec.Command("go", "tool", "test2json", "-t", "-p", name)
	conv.Stdin, conv.Stderr = out, os.Stderr
	js, err := conv.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := conv.Start(); err != nil {
		return nil, nil, err
	}
	return js, func() int { code := wait(); return max(code, exitCode(conv.Wait())) }, nil
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if e := (*exec.ExitError)(nil); errors.As(err, &e) {
		return e.ExitCode()
	}
	fmt.Fprintln(os.Stderr, err)
	return 125
}

func report() int {
	files, _ := filepath.Glob(filepath.Join(dir, "*.json"))
	total := newSummary()
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			fatal(err.Error())
		}
		s := newSummary()
		s.read(f, io.Discard)
		f.Close()
		s.print(strings.TrimSuffix(filepath.Base(file), ".json"), 0)
		total.passed += s.passed
		total.failed += s.failed
		total.skipped += s.skipped
	}
	fmt.Printf("\n%d passed, %d failed, %d skipped\n", total.passed, total.failed, total.skipped)
	if total.failed > 0 || total.passed == 0 {
		return 1
	}
	return 0
}
