# SPDX-License-Identifier: Apache-2.0
"""What a model is called in C: an identifier that nothing else in a program has.

A model's name becomes a global constant, a folder and a header, ``NAME/NAME.h``, that stands in the include path. So it
may be no word of C or C++, no name of the C library or of POSIX (which compilers know, and programs define once), no
header of theirs, no macro of a compiler, and nothing that exported folders and generated code use themselves.
"""

import re
from collections.abc import Sequence

_OWN_PREFIXES = ("ef_", "edgefleet")
#: What is written beside a program, as NAME_SUFFIX: a model of that very name would be the same to a linker.
_DERIVED = ("_blob", "_blob_words", "_preprocess")

_LANGUAGE = """
alignas alignof and and_eq arm asm auto bitand bitor bool break case catch char class co_await co_return co_yield
compl concept const const_cast consteval constexpr constinit continue decltype default delete do double dynamic_cast
else enum explicit export extern false final float for friend goto i386 if import inline int linux long mips module
mutable namespace new noexcept not not_eq nullptr operator or or_eq override private protected public register
reinterpret_cast requires restrict return riscv short signed sizeof sparc static static_assert static_cast struct
switch template this thread_local throw true try typedef typeid typename typeof typeof_unqual union unix unsigned
using virtual void volatile wchar_t while xor xor_eq
"""
_OURS = "arena example include kernels layers main model samples variants yield zephyr"
_HEADERS = """
algorithm array assert atomic bit bitset chrono complex ctype errno exception fenv filesystem float functional
inttypes iostream iso646 iterator limits list locale malloc map math memory mutex new numeric optional pthread queue
random ratio regex sched set setjmp signal span stack stdalign stdarg stdatomic stdbool stddef stdexcept stdint stdio
stdlib stdnoreturn string strings tgmath thread threads time tuple uchar unistd utility variant vector version wchar
wctype
"""
_LIBRARY = """
abort abs acos acosh aligned_alloc asctime asin asinh atan atan2 atanh atexit atof atoi atol atoll bcmp bcopy bsearch
bzero cabs cacos cacosh calloc carg casin casinh catan catanh cbrt ccos ccosh ceil cexp cimag clearerr clock clock_t
clog conj copysign cos cosh cpow cproj creal csin csinh csqrt ctan ctanh ctime difftime div div_t drem environ erf
erfc exit exp exp10 exp2 expm1 fabs fclose fdim feclearexcept fegetround feof ferror fesetround fflush ffs ffsl ffsll
fgetc fgetpos fgets floor fma fmax fmin fmod fopen fpos_t fprintf fputc fputs fread free freopen frexp fscanf fseek
fsetpos ftell fwrite gamma getc getchar getenv gets gettext gmtime hypot ilogb imaxabs imaxdiv index intmax_t intptr_t
isalnum isalpha isascii isblank iscntrl isdigit isfinite isgraph isgreater isinf isless islower isnan isnormal isprint
ispunct isspace isupper isxdigit j0 j1 jn labs ldexp ldiv ldiv_t lgamma llabs lldiv lldiv_t llrint llround localeconv
localtime log log10 log1p log2 logb longjmp lrint lround max_align_t mblen mbtowc memccpy memchr memcmp memcpy memmove
mempcpy memset mktime modf nan nearbyint nextafter nexttoward off_t offsetof perror pow pow10 printf ptrdiff_t putc
putchar puts qsort quick_exit raise rand realloc remainder remove remquo rename rewind rindex rint round scalb scalbln
scalbn scanf setbuf setjmp setlocale setvbuf signbit significand sin sincos sinh size_t snprintf sprintf sqrt srand
sscanf ssize_t stderr stdin stdout stpcpy strcasecmp strcat strchr strcmp strcoll strcpy strcspn strdup strerror
strftime strlen strncasecmp strncat strncmp strncpy strndup strnlen strpbrk strrchr strspn strstr strtod strtof strtok
strtol strtold strtoll strtoul strtoull strxfrm system tan tanh tgamma time_t tmpfile tmpnam toascii tolower toupper
trunc uintmax_t uintptr_t ungetc va_arg va_copy va_end va_start vfprintf vprintf vscanf vsnprintf vsprintf wcscat
wcslen wint_t wmemcpy y0 y1 yn
"""
_POSIX = """
accept access alarm alloca basename bind brk chdir chmod chown chroot close closedir connect creat crypt daemon
dirname dlopen dlsym dprintf dup dup2 err errx execl execv execve fchmod fcntl fdatasync fdopen fileno flock fork
fstat fsync ftime ftruncate getcwd getopt getpid getuid glob htonl htons inet_addr ioctl isatty kill lchown link
listen lockf lseek lstat madvise mkdir mkfifo mknod mkstemp mlock mmap mount mprotect msync munmap nanosleep nice
ntohl ntohs open opendir optarg optind pause pclose pipe poll popen pread ptrace putenv pwrite read readdir readlink
reboot recv remquof rmdir sbrk scandir select semctl send setenv shutdown sigaction sleep socket splice stat statfs
stime strsignal swab symlink sync syscall syslog tee times tolower truncate ttyname tzset ualarm umask umount uname
unlink unsetenv usleep utime vfork wait waitpid warn warnx write
"""
_FLOAT_ENDINGS = ("f", "l")
_TAKEN = frozenset(" ".join((_LANGUAGE, _OURS, _HEADERS, _LIBRARY, _POSIX)).split())
_INTEGER_TYPE = re.compile(r"u?int(_least|_fast)?\d+_t")


def c_name(name: str) -> str:
    """Return a name as an identifier of C and C++ that is none of their words, nor known to their libraries."""
    plain = re.sub(r"[^a-z0-9]", "_", name.lower())
    if not plain[:1].isalpha() or plain.startswith(_OWN_PREFIXES):
        return f"model_{plain}"
    return f"{plain}_model" if _is_taken(plain) else plain


def _is_taken(plain: str) -> bool:
    stem = plain[:-1] if plain.endswith(_FLOAT_ENDINGS) else plain
    taken = plain in _TAKEN or stem in _TAKEN or _INTEGER_TYPE.fullmatch(plain)
    return bool(taken)


def first_clash(names: Sequence[str]) -> tuple[str, str] | None:
    """Return two models that a linker could not tell apart, by their names in C."""
    for place, name in enumerate(names):
        for other in names[:place]:
            longer, shorter = sorted((name, other), key=len, reverse=True)
            if longer == shorter or longer.removeprefix(shorter) in _DERIVED:
                return other, name
    return None
