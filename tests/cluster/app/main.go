// The service that the cluster tests release: it answers with its version, and misbehaves as its environment says.
//
//	VERSION            what it answers, as body and in the header X-Version
//	ERROR_RATE         share of the answers that are a 500, from 0 to 1
//	LATENCY            mean time to answer, as "20ms"
//	CRASH_AT_START     exits with code 3 at once, if set
//	CRASH_AFTER        exits with code 1 so long after its start, as "2s"
//	UNREADY            /healthz answers 503 from the start, if set
//	FAIL_HEALTH_AFTER  /healthz answers 503 from so long after its start
//	MEMORY_HOG         takes so many MiB of memory once it serves
//	DRAIN              serves so long after SIGTERM before it closes, 3s if not set
//
// It speaks HTTP/1.1 and gRPC (h2c) on port 8080. `app pause` does nothing until it is told to stop: the container
// that holds a pod's network, so that one binary is all the images there are.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "pause" {
		pause()
		return
	}
	settings := settingsFromEnv()
	if settings.crashAtStart {
		fmt.Fprintln(os.Stderr, "fatal: cannot start: DATABASE_URL is not set")
		os.Exit(3)
	}
	if settings.crashAfter > 0 {
		time.AfterFunc(settings.crashAfter, func() {
			fmt.Fprintln(os.Stderr, "fatal: lost the connection to the database")
			os.Exit(1)
		})
	}
	if settings.memoryHogMiB > 0 {
		go hog(settings.memoryHogMiB)
	}
	if err := serve(&service{settings: settings, started: time.Now(), metrics: newMetrics()}); err != nil {
		fmt.Fprintln(os.Stderr, "fatal:", err)
		os.Exit(1)
	}
}

// settings is what the environment asks for.
type settings struct {
	version         string
	errorRate       float64
	latency         time.Duration
	crashAtStart    bool
	crashAfter      time.Duration
	unready         bool
	failHealthAfter time.Duration
	memoryHogMiB    int
	drain           time.Duration
}

func settingsFromEnv() settings {
	return settings{
		version:         os.Getenv("VERSION"),
		errorRate:       number("ERROR_RATE"),
		latency:         duration("LATENCY", 0),
		crashAtStart:    os.Getenv("CRASH_AT_START") != "",
		crashAfter:      duration("CRASH_AFTER", 0),
		unready:         os.Getenv("UNREADY") != "",
		failHealthAfter: duration("FAIL_HEALTH_AFTER", 0),
		memoryHogMiB:    int(number("MEMORY_HOG")),
		drain:           duration("DRAIN", 3*time.Second),
	}
}

// A setting that cannot be read is a mistake of the test: better no service than one that does something else.
func number(name string) float64 {
	text := os.Getenv(name)
	if text == "" {
		return 0
	}
	value, err := strconv.ParseFloat(text, 64)
	if err != nil {
		panic(fmt.Sprintf("%s=%q is not a number", name, text))
	}
	return value
}

func duration(name string, otherwise time.Duration) time.Duration {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	value, err := time.ParseDuration(text)
	if err != nil {
		panic(fmt.Sprintf("%s=%q is not a duration", name, text))
	}
	return value
}

// service is one running instance.
type service struct {
	settings settings
	started  time.Time
	draining atomic.Bool
	metrics  *metrics
}

// serve answers until SIGTERM, and then goes on for the drain: the word that this pod is leaving takes a moment to
// reach those who send requests.
func serve(s *service) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/", s.answer)
	mux.HandleFunc("/healthz", s.health)
	mux.HandleFunc("/metrics", s.metrics.write)

	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Addr: ":8080", Handler: mux, Protocols: protocols}

	closed := make(chan error, 1)
	go func() {
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
		<-stop
		s.draining.Store(true)
		fmt.Println("draining", s.settings.drain)
		time.Sleep(s.settings.drain)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		closed <- server.Shutdown(ctx)
	}()

	fmt.Println("serving", s.settings.version)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-closed
}

func (s *service) answer(w http.ResponseWriter, r *http.Request) {
	begun := time.Now()
	if s.settings.latency > 0 {
		// Spread around the mean, so that percentiles differ.
		time.Sleep(time.Duration(float64(s.settings.latency) * (0.5 + rand.Float64())))
	}
	failed := rand.Float64() < s.settings.errorRate
	code := http.StatusOK
	if failed {
		code = http.StatusInternalServerError
	}
	w.Header().Set("X-Version", s.settings.version)
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		s.answerCall(w, r, failed)
	} else {
		if s.draining.Load() && r.ProtoMajor == 1 {
			// A client that keeps its connection open learns in time to open another one elsewhere.
			w.Header().Set("Connection", "close")
		}
		w.WriteHeader(code)
		fmt.Fprintln(w, s.settings.version)
	}
	s.metrics.observe(code, time.Since(begun))
}

// answerCall answers any unary gRPC method with a message whose first field is the version.
func (s *service) answerCall(w http.ResponseWriter, r *http.Request, failed bool) {
	io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
	// Sent now, without a length: what is set from here on follows the message.
	http.NewResponseController(w).Flush()
	if failed {
		w.Header().Set("Grpc-Status", "13")
		w.Header().Set("Grpc-Message", "failed as told")
		return
	}
	message := append([]byte{0x0a, byte(len(s.settings.version))}, s.settings.version...)
	w.Write(append([]byte{0, 0, 0, 0, byte(len(message))}, message...))
	w.Header().Set("Grpc-Status", "0")
}

func (s *service) health(w http.ResponseWriter, _ *http.Request) {
	late := s.settings.failHealthAfter
	switch {
	case s.settings.unready:
		http.Error(w, "not ready: the database does not answer", http.StatusServiceUnavailable)
	case late > 0 && time.Since(s.started) > late:
		http.Error(w, "not ready any more: the database has gone", http.StatusServiceUnavailable)
	default:
		fmt.Fprintln(w, "ok")
	}
}

// metrics are the two that nearly every service has, written by hand to stay free of dependencies.
type metrics struct {
	mu      sync.Mutex
	byCode  map[int]uint64
	buckets []uint64
	sum     float64
	count   uint64
}

// Upper bounds of the histogram, in seconds.
var bounds = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5}

func newMetrics() *metrics {
	// The counters that alerts divide by are there from the first scrape on.
	return &metrics{byCode: map[int]uint64{200: 0, 500: 0}, buckets: make([]uint64, len(bounds)+1)}
}

func (m *metrics) observe(code int, took time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	seconds := took.Seconds()
	bucket := 0
	for bucket < len(bounds) && seconds > bounds[bucket] {
		bucket++
	}
	m.byCode[code]++
	m.buckets[bucket]++
	m.sum += seconds
	m.count++
}

func (m *metrics) write(w http.ResponseWriter, _ *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	fmt.Fprintln(w, "# HELP http_requests_total Requests answered, by status code.")
	fmt.Fprintln(w, "# TYPE http_requests_total counter")
	for _, code := range []int{200, 500} {
		fmt.Fprintf(w, "http_requests_total{code=\"%d\"} %d\n", code, m.byCode[code])
	}
	fmt.Fprintln(w, "# HELP http_request_duration_seconds Time to answer.")
	fmt.Fprintln(w, "# TYPE http_request_duration_seconds histogram")
	below := uint64(0)
	for i, bound := range bounds {
		below += m.buckets[i]
		fmt.Fprintf(w, "http_request_duration_seconds_bucket{le=\"%g\"} %d\n", bound, below)
	}
	fmt.Fprintf(w, "http_request_duration_seconds_bucket{le=\"+Inf\"} %d\n", m.count)
	fmt.Fprintf(w, "http_request_duration_seconds_sum %g\n", m.sum)
	fmt.Fprintf(w, "http_request_duration_seconds_count %d\n", m.count)
}

// hog takes memory page by page until the kernel objects or the amount is reached; it never gives it back.
func hog(mib int) {
	var kept [][]byte
	for len(kept) < mib {
		block := make([]byte, 1<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		kept = append(kept, block)
		time.Sleep(5 * time.Millisecond)
	}
	for {
		time.Sleep(time.Hour)
		kept[0][0]++
	}
}

// pause sleeps until it is told to stop.
func pause() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
}
