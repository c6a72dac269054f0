// The program in the pods of `cargo xtask cluster check`: a server with something for each kind of probe, and a client.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

const usage = `usage: workload COMMAND
  serve          HTTP on 8080, TCP on 9090 (answers each line), gRPC health on 9091
  get URL        print what a GET is answered
  dial ADDRESS   print the line that a TCP server answers
  resolve NAME   print the addresses of a name
  await NAME     the same, asking again for a minute until there is an answer
  sleep SECONDS
  exit CODE`

// How long a client waits for anything.
const patience = 5 * time.Second

func main() {
	if len(os.Args) == 2 && os.Args[1] == "serve" {
		end(serve())
	}
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	argument := os.Args[2]
	switch os.Args[1] {
	case "get":
		end(get(argument))
	case "dial":
		end(dial(argument))
	case "resolve":
		end(resolve(argument))
	case "await":
		err := resolve(argument)
		for last := time.Now().Add(time.Minute); err != nil && time.Now().Before(last); err = resolve(argument) {
			time.Sleep(200 * time.Millisecond)
		}
		end(err)
	case "sleep":
		seconds, err := strconv.Atoi(argument)
		time.Sleep(time.Duration(seconds) * time.Second)
		end(err)
	case "exit":
		code, err := strconv.Atoi(argument)
		if err == nil {
			os.Exit(code)
		}
		end(err)
	}
	fmt.Fprintln(os.Stderr, usage)
	os.Exit(2)
}

func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serve() error {
	failed := make(chan error)
	go func() { failed <- serveHTTP() }()
	go func() { failed <- serveTCP() }()
	go func() { failed <- serveGRPC() }()
	fmt.Println("serving as", name())
	return <-failed
}

func serveHTTP() error {
	http.HandleFunc("/", func(out http.ResponseWriter, request *http.Request) {
		host, _, _ := net.SplitHostPort(request.RemoteAddr)
		fmt.Fprintf(out, "server=%s client=%s host=%s\n", name(), host, request.Host)
	})
	http.HandleFunc("/healthz", func(out http.ResponseWriter, _ *http.Request) { fmt.Fprintln(out, "ok") })
	return http.ListenAndServe(":8080", nil)
}

func serveTCP() error {
	listener, err := net.Listen("tcp", ":9090")
	if err != nil {
		return err
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer connection.Close()
			for lines := bufio.NewScanner(connection); lines.Scan(); {
				fmt.Fprintf(connection, "%s %s\n", name(), lines.Text())
			}
		}()
	}
}

func serveGRPC() error {
	listener, err := net.Listen("tcp", ":9091")
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	return server.Serve(listener)
}

func get(url string) error {
	client := http.Client{Timeout: patience}
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(os.Stdout, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", answer.StatusCode)
	}
	return nil
}

func dial(address string) error {
	connection, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return err
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	fmt.Fprintln(connection, "hello")
	line, err := bufio.NewReader(connection).ReadString('\n')
	fmt.Print(line)
	return err
}

func resolve(host string) error {
	within, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(within, host)
	for _, address := range addresses {
		fmt.Println(address)
	}
	return err
}

func name() string {
	host, err := os.Hostname()
	if err != nil {
		return err.Error()
	}
	return host
}
