// Command abigen reads the HP_REASONS table of bpf/include/abi.h and writes what
// is known of reasons elsewhere: the Go type and the page for people.
//
//	abigen -abi bpf/include/abi.h -go pkg/policy/zz_generated_reasons.go -doc docs/reference/reasons.md
//
// With -check it writes nothing and exits 1 if a file is not what it would write.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
)

func main() {
	abi := flag.String("abi", "bpf/include/abi.h", "header that holds the table")
	goFile := flag.String("go", "pkg/policy/zz_generated_reasons.go", "Go file to write")
	docFile := flag.String("doc", "docs/reference/reasons.md", "page to write")
	check := flag.Bool("check", false, "write nothing; exit 1 if a file is out of date")
	flag.Parse()
	if err := run(*abi, *goFile, *docFile, *check); err != nil {
		fmt.Fprintln(os.Stderr, "abigen:", err)
		os.Exit(1)
	}
}

func run(abi, goFile, docFile string, check bool) error {
	header, err := os.ReadFile(abi)
	if err != nil {
		return err
	}
	reasons, err := parse(header)
	if err != nil {
		return fmt.Errorf("%s: %w", abi, err)
	}
	code, err := goSource(reasons)
	if err != nil {
		return err
	}
	for name, want := range map[string][]byte{goFile: code, docFile: page(reasons)} {
		if !check {
			if err := os.WriteFile(name, want, 0o644); err != nil {
				return err
			}
			continue
		}
		have, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if !bytes.Equal(have, want) {
			return fmt.Errorf("%s is out of date: run go generate ./pkg/datapath", name)
		}
	}
	return nil
}
